import path from 'node:path';
import { IFError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { elements, totalBytes, type FileDType } from './file-dtype.js';
import type { WriteOptions, WrittenTensor } from './safetensors-writer.js';
import { STORAGES } from './torch-globals.js';
import { zipChunks, type ZipContent } from './zip-writer.js';

/**
 * Writes a state dict as torch.save does (protocol 2, one storage per tensor), so that torch.load reads it, with
 * weights_only as well. The file appears under its name when it is complete; one tensor is in memory at a time.
 * @throws IFError `UNSUPPORTED` for a type that torch has no storage for, or that differs from the one declared; `IO`,
 *   `CANCELLED`, and what the reads throw
 */
export async function writeStateDict(file: string, tensors: readonly WrittenTensor[], options: Pick<WriteOptions, 'onProgress' | 'signal'> = {}): Promise<void> {
  const root = path.parse(file).name;
  const total = totalBytes(tensors);
  async function* contents(): AsyncGenerator<ZipContent> {
    yield { name: `${root}/data.pkl`, bytes: pickleStateDict(tensors) };
    yield { name: `${root}/byteorder`, bytes: Buffer.from('little') };
    let done = 0;
    for (const [i, tensor] of tensors.entries()) {
      if (options.signal?.aborted) throw new IFError('CANCELLED', 'the operation was cancelled');
      const { bytes, dtype } = await tensor.read();
      if (dtype !== tensor.dtype) throw new IFError('UNSUPPORTED', `tensor ${JSON.stringify(tensor.name)} is ${dtype}, it was to be written as ${tensor.dtype}: change the type before`);
      yield { name: `${root}/data/${i}`, bytes };
      done += bytes.length;
      options.onProgress?.(done, total);
    }
    yield { name: `${root}/version`, bytes: Buffer.from('3\n') };
  }
  await writeFileAtomic(file, zipChunks(contents()));
}

const STORAGE_NAMES = new Map(Object.entries(STORAGES).map(([name, dtype]): [FileDType, string] => [dtype, name]));

/** OrderedDict of `_rebuild_tensor_v2` calls; tensor i has storage i. */
function pickleStateDict(tensors: readonly WrittenTensor[]): Buffer {
  const out: Buffer[] = [];
  const op = (...bytes: number[]): void => void out.push(Buffer.from(bytes));
  const global = (module: string, name: string): void => void out.push(Buffer.from(`c${module}\n${name}\n`, 'latin1'));
  const text = (value: string): void => {
    const bytes = Buffer.from(value);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    out.push(Buffer.from('X'), length, bytes);
  };
  const integer = (value: number): void => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    out.push(Buffer.from([0x8a, 8]), bytes); // LONG1
  };
  const integers = (values: readonly number[]): void => {
    op(0x28); // MARK
    values.forEach(integer);
    op(0x74); // TUPLE
  };
  const emptyDict = (): void => {
    global('collections', 'OrderedDict');
    op(0x29, 0x52); // EMPTY_TUPLE, REDUCE
  };
  op(0x80, 2); // PROTO
  emptyDict();
  op(0x28);
  for (const [i, { name, dtype, shape }] of tensors.entries()) {
    const storage = STORAGE_NAMES.get(dtype);
    if (!storage) throw new IFError('UNSUPPORTED', `tensor ${JSON.stringify(name)} is ${dtype}, which torch archives cannot hold`);
    text(name);
    global('torch._utils', '_rebuild_tensor_v2');
    op(0x28, 0x28);
    text('storage');
    global('torch', storage);
    text(String(i));
    text('cpu');
    integer(elements(shape));
    op(0x74, 0x51); // TUPLE, BINPERSID
    integer(0);
    integers(shape);
    integers(denseStrides(shape));
    op(0x89); // NEWFALSE: requires_grad
    emptyDict(); // backward hooks
    op(0x74, 0x52);
  }
  op(0x75, 0x2e); // SETITEMS, STOP
  return Buffer.concat(out);
}

/** Row-major. */
function denseStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}
