// Builds zip files and pickle streams byte by byte, correct or wrong on purpose.
import { crc32, deflateRawSync } from 'node:zlib';

export interface TestEntry {
  name: string;
  bytes: Uint8Array;
  deflate?: boolean;
  /** What the central directory says instead of the truth. */
  lies?: { size?: number; packedSize?: number; header?: number; crc?: number; method?: number; flags?: number };
  /** What the local header calls it instead. */
  localName?: string;
  /** The name in the directory as bytes. */
  rawName?: Uint8Array;
  /** Sizes and offset only in the zip64 extra field. */
  zip64?: boolean;
}

const u16 = (value: number): Buffer => { const b = Buffer.alloc(2); b.writeUInt16LE(value); return b; };
const u32 = (value: number): Buffer => { const b = Buffer.alloc(4); b.writeUInt32LE(value); return b; };
const u64 = (value: number | bigint): Buffer => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(value)); return b; };

/** A zip file. `count`: what the end record says. */
export function zipFile(entries: readonly TestEntry[], count = entries.length): Buffer {
  const body: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, bytes, deflate, lies = {}, localName = name, rawName = Buffer.from(name), zip64 } of entries) {
    const packed = deflate ? deflateRawSync(bytes) : Buffer.from(bytes);
    const method = lies.method ?? (deflate ? 8 : 0);
    const crc = lies.crc ?? crc32(bytes);
    const size = lies.size ?? bytes.length;
    const packedSize = lies.packedSize ?? packed.length;
    const header = lies.header ?? offset;
    const extra = zip64 ? Buffer.concat([u16(1), u16(24), u64(size), u64(packedSize), u64(header)]) : Buffer.alloc(0);
    const shown = (value: number): Buffer => u32(zip64 ? 0xffffffff : value);
    const local = Buffer.concat([u32(0x04034b50), u16(20), u16(0), u16(method), u32(0), u32(crc), u32(packed.length), u32(bytes.length), u16(Buffer.byteLength(localName)), u16(0), Buffer.from(localName)]);
    directory.push(u32(0x02014b50), u16(20), u16(20), u16(lies.flags ?? 0), u16(method), u32(0), u32(crc), shown(packedSize), shown(size), u16(rawName.length), u16(extra.length), u16(0), u16(0), u16(0), u32(0), shown(header), Buffer.from(rawName), extra);
    body.push(local, packed);
    offset += local.length + packed.length;
  }
  const central = Buffer.concat(directory);
  return Buffer.concat([...body, central, u32(0x06054b50), u16(0), u16(0), u16(count), u16(count), u32(central.length), u32(offset), u16(0)]);
}

/** A torch archive of this pickle stream; storages by key. */
export function torchFile(pickle: Uint8Array, storages: Record<string, Uint8Array> = {}, more: TestEntry[] = []): Buffer {
  return zipFile([{ name: 'archive/data.pkl', bytes: pickle }, ...Object.entries(storages).map(([key, bytes]) => ({ name: `archive/data/${key}`, bytes })), ...more]);
}

/** A pickle stream, opcode by opcode (Python's Lib/pickletools.py). */
export class PickleStream {
  private readonly parts: Buffer[] = [];
  constructor(protocol = 2) {
    this.raw(0x80, protocol);
  }

  raw(...bytes: number[]): this {
    this.parts.push(Buffer.from(bytes));
    return this;
  }
  append(bytes: Uint8Array): this {
    this.parts.push(Buffer.from(bytes));
    return this;
  }
  global(module: string, name: string): this {
    return this.append(Buffer.from(`c${module}\n${name}\n`));
  }
  text(value: string): this {
    return this.append(Buffer.concat([Buffer.from('X'), u32(Buffer.byteLength(value)), Buffer.from(value)]));
  }
  int(value: number | bigint): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    return this.append(Buffer.concat([Buffer.from([0x8a, 8]), bytes]));
  }
  mark(): this { return this.raw(0x28); }
  tuple(): this { return this.raw(0x74); }
  emptyTuple(): this { return this.raw(0x29); }
  emptyDict(): this { return this.raw(0x7d); }
  setItems(): this { return this.raw(0x75); }
  reduce(): this { return this.raw(0x52); }
  build(): this { return this.raw(0x62); }
  put(index: number): this { return this.append(Buffer.concat([Buffer.from('r'), u32(index)])); }
  get(index: number): this { return this.append(Buffer.concat([Buffer.from('j'), u32(index)])); }
  ints(values: readonly (number | bigint)[]): this {
    this.mark();
    for (const value of values) this.int(value);
    return this.tuple();
  }

  /** A tensor: `_rebuild_tensor_v2` of storage `key`. */
  tensor(key: string, options: { storage?: string; size?: number | bigint; offset?: number | bigint; shape: readonly (number | bigint)[]; stride: readonly (number | bigint)[] }): this {
    this.global('torch._utils', '_rebuild_tensor_v2').mark();
    this.mark().text('storage').global('torch', options.storage ?? 'FloatStorage').text(key).text('cpu');
    this.int(options.size ?? options.shape.reduce<number>((product, n) => product * Number(n), 1)).tuple().raw(0x51);
    this.int(options.offset ?? 0).ints(options.shape).ints(options.stride).raw(0x89);
    return this.global('collections', 'OrderedDict').emptyTuple().reduce().tuple().reduce();
  }

  stop(): Buffer {
    return Buffer.concat([...this.parts, Buffer.from('.')]);
  }
}

/** A pickled dict with one item per function. */
export function pickledDict(items: Record<string, (p: PickleStream) => PickleStream>): Buffer {
  const p = new PickleStream().emptyDict().mark();
  for (const [key, write] of Object.entries(items)) write(p.text(key));
  return p.setItems().stop();
}
