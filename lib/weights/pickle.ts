// Python's pickle, protocols 2 to 5 (PEP 307, 3154, 574; opcodes as in Python's Lib/pickletools.py), as data only. A name in
// the stream is looked up in a table that the caller gives and is never imported; there is nothing here that could run code.
import { IFError } from '../errors.js';

/** A tuple; lists are arrays, dicts are Maps. */
export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A name that the stream refers to, as the caller's table describes it. */
export interface PickleGlobal {
  /** `module.name` */
  readonly path: string;
  /** What a call gives; without it a call is refused. `where` names the file in messages. */
  readonly call?: (args: readonly PickleValue[], where: string) => PickleValue;
}

/** An object whose content does not matter; it is kept so that the objects around it can be read. */
export class OpaqueObject {
  constructor(readonly path: string) {}
}

export type PickleKey = string | number | bigint | boolean | null;
/** `object`: what the calls of the caller's table return. */
export type PickleValue = PickleKey | Uint8Array | PickleValue[] | PickleTuple | Map<PickleKey, PickleValue> | Set<PickleValue> | object;

export interface PickleOptions {
  /** How messages call the stream. */
  where: string;
  /** Looks a name up. @returns undefined to refuse it. */
  resolve: (path: string) => PickleGlobal | undefined;
  /** Gives the object behind a persistent id. */
  load: (id: PickleValue) => PickleValue;
}

// Bounds what a stream can make: every step makes one object at most. A state dict needs about 30 per tensor.
const MOST_STEPS = 2_000_000;
const LONGEST_INTEGER = 16; // bytes

const REFUSED: Record<number, string> = {
  0x69: 'INST', 0x6f: 'OBJ', 0x82: 'EXT1', 0x83: 'EXT2', 0x84: 'EXT4', 0x50: 'PERSID', 0x97: 'NEXT_BUFFER', 0x98: 'READONLY_BUFFER',
};

/**
 * Reads one pickled object.
 * @throws IFError `FILE_FORMAT` for a damaged stream, `UNSUPPORTED`, with the name, for a global or opcode that is not allowed
 */
export function unpickle(bytes: Uint8Array, options: PickleOptions): PickleValue {
  return new Unpickler(bytes, options).run();
}

/** `a dict`, `a torch.FloatStorage`: for messages. */
export function describePickle(value: PickleValue): string {
  if (value instanceof PickleTuple) return 'a tuple';
  if (value instanceof Map) return 'a dict';
  if (value instanceof Set) return 'a set';
  if (Array.isArray(value)) return 'a list';
  if (value instanceof Uint8Array) return 'bytes';
  if (typeof value === 'string') return `the text ${JSON.stringify(value.slice(0, 60))}`;
  if (typeof value === 'object' && value !== null) return 'path' in value ? `a ${String(value.path)}` : 'an object';
  return String(value);
}

class Unpickler {
  private readonly view: DataView;
  private readonly decoder = new TextDecoder('utf-8', { fatal: true });
  private readonly memo = new Map<number, PickleValue>();
  private stack: PickleValue[] = [];
  /** The stacks below each open MARK. */
  private readonly below: PickleValue[][] = [];
  private at = 0;

  constructor(private readonly bytes: Uint8Array, private readonly options: PickleOptions) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): PickleValue {
    if (this.bytes[0] !== 0x80 || !(this.bytes[1]! >= 2 && this.bytes[1]! <= 5)) this.bad('expected protocol 2 to 5');
    this.at = 2;
    for (let steps = 0; steps < MOST_STEPS; steps++) {
      const start = this.at;
      const opcode = this.byte();
      if (opcode === 0x2e) { // STOP
        if (this.below.length || this.stack.length !== 1) this.bad('it ends before all objects are complete');
        if (this.at !== this.bytes.length) this.bad(`${this.bytes.length - this.at} bytes after its end`);
        return this.stack[0]!;
      }
      this.step(opcode, start);
    }
    this.bad(`more than ${MOST_STEPS} steps; this is no state dict`);
  }

  private step(opcode: number, start: number): void {
    switch (opcode) {
      case 0x95: this.skipFrame(); return; // FRAME
      case 0x28: this.below.push(this.stack); this.stack = []; return; // MARK
      case 0x30: this.pop(); return; // POP
      // memo
      case 0x71: this.memo.set(this.byte(), this.top()); return; // BINPUT
      case 0x72: this.memo.set(this.uint32(), this.top()); return; // LONG_BINPUT
      case 0x94: this.memo.set(this.memo.size, this.top()); return; // MEMOIZE
      case 0x68: this.stack.push(this.recall(this.byte())); return; // BINGET
      case 0x6a: this.stack.push(this.recall(this.uint32())); return; // LONG_BINGET
      // scalars
      case 0x4e: this.stack.push(null); return; // NONE
      case 0x88: this.stack.push(true); return; // NEWTRUE
      case 0x89: this.stack.push(false); return; // NEWFALSE
      case 0x4b: this.stack.push(this.byte()); return; // BININT1
      case 0x4d: this.stack.push(this.take(2).getUint16(0, true)); return; // BININT2
      case 0x4a: this.stack.push(this.take(4).getInt32(0, true)); return; // BININT
      case 0x8a: this.stack.push(this.long(this.byte())); return; // LONG1
      case 0x47: this.stack.push(this.take(8).getFloat64(0)); return; // BINFLOAT, big-endian
      // text and bytes
      case 0x8c: this.stack.push(this.text(this.byte())); return; // SHORT_BINUNICODE
      case 0x58: this.stack.push(this.text(this.uint32())); return; // BINUNICODE
      case 0x8d: this.stack.push(this.text(this.uint64())); return; // BINUNICODE8
      case 0x43: this.stack.push(this.raw(this.byte())); return; // SHORT_BINBYTES
      case 0x42: this.stack.push(this.raw(this.uint32())); return; // BINBYTES
      case 0x8e: case 0x96: this.stack.push(this.raw(this.uint64())); return; // BINBYTES8, BYTEARRAY8
      // containers
      case 0x29: this.stack.push(new PickleTuple([])); return; // EMPTY_TUPLE
      case 0x85: case 0x86: case 0x87: this.stack.push(new PickleTuple(this.popMany(opcode - 0x84))); return; // TUPLE1..3
      case 0x74: this.pushAfter((items) => new PickleTuple(items)); return; // TUPLE
      case 0x5d: this.stack.push([]); return; // EMPTY_LIST
      case 0x6c: this.pushAfter((items) => items); return; // LIST
      case 0x61: this.append(this.popMany(1)); return; // APPEND
      case 0x65: this.append(this.popMark()); return; // APPENDS
      case 0x7d: this.stack.push(new Map()); return; // EMPTY_DICT
      case 0x64: this.pushAfter((items) => this.fill(new Map(), items)); return; // DICT
      case 0x73: this.setItems(this.popMany(2)); return; // SETITEM
      case 0x75: this.setItems(this.popMark()); return; // SETITEMS
      case 0x8f: this.stack.push(new Set()); return; // EMPTY_SET
      case 0x90: this.addItems(this.popMark()); return; // ADDITEMS
      case 0x91: this.pushAfter((items) => new Set(items)); return; // FROZENSET
      // objects
      case 0x63: this.stack.push(this.global(this.line(), this.line())); return; // GLOBAL
      case 0x93: this.stackGlobal(); return; // STACK_GLOBAL
      case 0x52: this.reduce('called'); return; // REDUCE
      case 0x81: this.reduce('made'); return; // NEWOBJ
      case 0x92: this.newObjectEx(); return; // NEWOBJ_EX
      case 0x62: this.build(); return; // BUILD
      case 0x51: this.stack.push(this.options.load(this.pop())); return; // BINPERSID
      default: {
        const name = REFUSED[opcode] ?? `0x${opcode.toString(16)}`;
        throw new IFError('UNSUPPORTED', `${this.options.where}: pickle opcode ${name} at byte ${start} is not one that torch.save writes; the file is refused`);
      }
    }
  }

  // ---- the stream

  private bad(what: string): never {
    throw new IFError('FILE_FORMAT', `${this.options.where}: pickle stream: ${what} (byte ${this.at})`);
  }

  private advance(length: number): number {
    const start = this.at;
    if (start + length > this.bytes.length) this.bad(`cut off, ${length} more bytes expected`);
    this.at += length;
    return start;
  }

  private take(length: number): DataView {
    const start = this.advance(length);
    return new DataView(this.view.buffer, this.view.byteOffset + start, length);
  }

  private byte(): number {
    return this.bytes[this.advance(1)]!;
  }

  private uint32(): number {
    return this.view.getUint32(this.advance(4), true);
  }

  private uint64(): number {
    const value = this.view.getBigUint64(this.advance(8), true);
    if (value > BigInt(this.bytes.length)) this.bad(`cut off, ${value} more bytes expected`);
    return Number(value);
  }

  /** A frame says how many bytes come next; the steps inside check their own bounds. */
  private skipFrame(): void {
    const length = this.uint64();
    if (this.at + length > this.bytes.length) this.bad(`a frame of ${length} bytes is cut off`);
  }

  private raw(length: number): Uint8Array {
    const start = this.advance(length);
    return this.bytes.slice(start, start + length);
  }

  private text(length: number): string {
    const start = this.advance(length);
    try {
      return this.decoder.decode(this.bytes.subarray(start, start + length));
    } catch {
      return this.bad('text that is not UTF-8');
    }
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.bad('a name without an end');
    const line = this.text(end - this.at);
    this.at = end + 1;
    return line;
  }

  /** Two's complement, little-endian. */
  private long(length: number): number | bigint {
    if (length > LONGEST_INTEGER) this.bad(`an integer of ${length} bytes`);
    let value = 0n;
    const start = this.advance(length);
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[start + i]!);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  // ---- the stack

  private top(): PickleValue {
    if (this.stack.length === 0) this.bad('an object is missing');
    return this.stack.at(-1)!;
  }

  private pop(): PickleValue {
    const value = this.top();
    this.stack.pop();
    return value;
  }

  private popMany(count: number): PickleValue[] {
    if (this.stack.length < count) this.bad('an object is missing');
    return this.stack.splice(-count);
  }

  private popMark(): PickleValue[] {
    const items = this.stack;
    const below = this.below.pop();
    if (!below) this.bad('no mark');
    this.stack = below;
    return items;
  }

  private pushAfter(make: (items: PickleValue[]) => PickleValue): void {
    const items = this.popMark();
    this.stack.push(make(items));
  }

  private recall(index: number): PickleValue {
    const value = this.memo.get(index);
    if (value === undefined) this.bad(`memo ${index} is empty`);
    return value;
  }

  // ---- containers

  private append(items: PickleValue[]): void {
    const list = this.top();
    if (!Array.isArray(list)) this.bad(`an item for ${describePickle(list)}`);
    for (const item of items) list.push(item);
  }

  private setItems(items: PickleValue[]): void {
    const map = this.top();
    if (map instanceof OpaqueObject) return;
    if (!(map instanceof Map)) this.bad(`a key for ${describePickle(map)}`);
    this.fill(map as Map<PickleKey, PickleValue>, items);
  }

  private fill(map: Map<PickleKey, PickleValue>, items: PickleValue[]): Map<PickleKey, PickleValue> {
    if (items.length % 2) this.bad('a key without a value');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i]!;
      if (typeof key === 'object' && key !== null) this.bad(`${describePickle(key)} as a key`);
      map.set(key, items[i + 1]!);
    }
    return map;
  }

  private addItems(items: PickleValue[]): void {
    const set = this.top();
    if (!(set instanceof Set)) this.bad(`an item for ${describePickle(set)}`);
    for (const item of items) set.add(item);
  }

  // ---- objects

  private global(module: string, name: string): PickleGlobal {
    const path = `${module}.${name}`;
    const found = this.options.resolve(path);
    if (!found) {
      throw new IFError('UNSUPPORTED', `${this.options.where}: it refers to ${path}, which is not part of a state dict; the file is refused (nothing of it was run)`);
    }
    return found;
  }

  private stackGlobal(): void {
    const [module, name] = this.popMany(2);
    if (typeof module !== 'string' || typeof name !== 'string') this.bad('a global whose name is not text');
    this.stack.push(this.global(module, name));
  }

  private reduce(verb: 'called' | 'made'): void {
    const [callee, args] = this.popMany(2);
    if (!(args instanceof PickleTuple)) this.bad('arguments that are not a tuple');
    this.stack.push(this.call(callee!, args.items, verb));
  }

  private newObjectEx(): void {
    const [callee, args, keywords] = this.popMany(3);
    if (!(args instanceof PickleTuple) || !(keywords instanceof Map)) this.bad('arguments that are not a tuple and a dict');
    if (keywords.size) this.bad('an object made with keyword arguments');
    this.stack.push(this.call(callee!, args.items, 'made'));
  }

  private call(callee: PickleValue, args: readonly PickleValue[], verb: string): PickleValue {
    const call = typeof callee === 'object' && callee !== null && 'call' in callee ? (callee as PickleGlobal).call : undefined;
    if (!call) throw new IFError('UNSUPPORTED', `${this.options.where}: ${describePickle(callee)} is ${verb}, which no state dict needs; the file is refused (nothing of it was run)`);
    return call(args, this.options.where);
  }

  /** Attributes that are set on an object: of an OrderedDict (`_metadata`, versions of modules) or an opaque object. */
  private build(): void {
    this.pop();
    const object = this.top();
    if (!(object instanceof Map || object instanceof OpaqueObject)) this.bad(`attributes for ${describePickle(object)}`);
  }
}
