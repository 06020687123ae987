// Checkpoints of torch.save: a zip file `NAME/data.pkl`, `NAME/data/0`, `NAME/data/1`, … (torch/serialization.py, _save).
import { open } from 'node:fs/promises';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { DTYPE_BYTES, elements } from './file-dtype.js';
import { describePickle, type PickleValue } from './pickle.js';
import { TensorRef, unpickleTorch, type StorageRef } from './torch-globals.js';
import { ZipReader, type ZipEntry } from './zip-reader.js';

// A state dict of 1,600 tensors with optimizer state has a data.pkl of 1 MB; mmengine adds its loss histories.
const LARGEST_PICKLE = 64 * 2 ** 20;

/** A torch archive, opened for reading: what is in it is known, the tensors' bytes stay in the file until they are read. */
export class TorchArchive {
  private constructor(
    private readonly zip: ZipReader,
    private readonly prefix: string,
    /** The saved object. */
    readonly root: PickleValue,
  ) {}

  /**
   * Opens a `.bin`, `.pt` or `.pth` file. Nothing in the file can run: names are looked up in a short table (torch-globals.ts).
   * @throws IFError `NOT_FOUND`, `IO`; `FILE_FORMAT` when the file is damaged or cut off; `UNSUPPORTED` for the format of
   *   torch before 1.6, TorchScript, big-endian files, and, by name, for anything that is not a state dict
   */
  static async open(file: string): Promise<TorchArchive> {
    await refuseOtherFormats(file);
    const zip = await ZipReader.open(file);
    try {
      const prefix = archivePrefix(zip);
      const text = async (name: string): Promise<string | undefined> => {
        const entry = zip.entries.get(prefix + name);
        if (entry && entry.size > 64) throw new IFError('FILE_FORMAT', `${file}: ${entry.name} has ${entry.size} bytes, a word was expected`);
        return entry && (await zip.read(entry)).toString('latin1').trim();
      };
      if (((await text('byteorder')) ?? 'little') !== 'little') throw new IFError('UNSUPPORTED', `${file}: it was saved on a big-endian machine`);
      if (zip.entries.has(`${prefix}constants.pkl`)) throw new IFError('UNSUPPORTED', `${file}: this is a TorchScript program; save its state_dict() instead`);
      const pickled = zip.entries.get(`${prefix}data.pkl`)!;
      if (pickled.size > LARGEST_PICKLE) throw new IFError('FILE_FORMAT', `${file}: ${pickled.name} has ${pickled.size} bytes; a state dict needs a few hundred thousand`);
      return new TorchArchive(zip, prefix, unpickleTorch(await zip.read(pickled), file));
    } catch (error) {
      await zip.close();
      throw error;
    }
  }

  get file(): string {
    return this.zip.file;
  }

  close(): Promise<void> {
    return this.zip.close();
  }

  /**
   * The tensors of a dict: the saved object, or what lies under `keys` in it.
   * @throws IFError `FILE_FORMAT` when there is no dict, or it holds something other than tensors, or a storage is missing
   *   from the archive or has another size than the tensors say
   */
  stateDict(keys: readonly string[] = []): Map<string, TensorRef> {
    const where = [this.file, ...keys].join(': ');
    let value: PickleValue = this.root;
    for (const key of keys) value = value instanceof Map ? value.get(key) ?? null : null;
    if (!(value instanceof Map)) throw new IFError('FILE_FORMAT', `${where}: expected a state dict, got ${describePickle(value)}`);
    const tensors = new Map<string, TensorRef>();
    for (const [name, tensor] of value) {
      if (typeof name !== 'string') throw new IFError('FILE_FORMAT', `${where}: the name ${describePickle(name)} is no text`);
      if (!(tensor instanceof TensorRef)) throw new IFError('FILE_FORMAT', `${where}: ${JSON.stringify(name)} is ${describePickle(tensor)}, expected a tensor`);
      this.entryOf(tensor.storage);
      tensors.set(name, tensor);
    }
    return tensors;
  }

  /**
   * The elements of a tensor, row-major and dense, little-endian.
   * @throws IFError `FILE_FORMAT` when the entry is damaged, `IO`
   */
  async read(tensor: TensorRef): Promise<Buffer> {
    const size = DTYPE_BYTES[tensor.dtype];
    const count = elements(tensor.shape);
    if (count === 0) return Buffer.alloc(0);
    const span = tensor.shape.reduce((at, n, i) => at + (n - 1) * tensor.stride[i]!, 1);
    const bytes = await this.zip.read(this.entryOf(tensor.storage), tensor.offset * size, span * size);
    return isDense(tensor) ? bytes : gather(bytes, tensor, count);
  }

  private entryOf(storage: StorageRef): ZipEntry {
    const entry = this.zip.entries.get(`${this.prefix}data/${storage.key}`);
    if (!entry) throw new IFError('FILE_FORMAT', `${this.file}: storage ${storage.key} is missing from the archive`);
    const expected = storage.size * DTYPE_BYTES[storage.dtype];
    if (entry.size !== expected) throw new IFError('FILE_FORMAT', `${this.file}: storage ${storage.key} has ${entry.size} bytes, ${storage.size} elements of ${storage.dtype} need ${expected}`);
    return entry;
  }
}

/** Files that people take for torch archives, told apart by their first bytes. */
async function refuseOtherFormats(file: string): Promise<void> {
  const head = Buffer.alloc(16);
  const handle = await open(file, 'r').catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause });
    throw ioError('reading', file, cause);
  });
  try {
    const info = await handle.stat();
    if (info.isDirectory()) throw new IFError('FILE_FORMAT', `${file}: expected a file, got a folder`);
    await handle.read(head, 0, head.length, 0);
  } finally {
    await handle.close();
  }
  // protocol 2, LONG1 of ten bytes: the magic number of torch/serialization.py, _legacy_save
  if (head.subarray(0, 14).equals(Buffer.from('80028a0a6cfc9c46f9206aa85019', 'hex'))) {
    throw new IFError('UNSUPPORTED', `${file}: this is the format of torch before version 1.6; load it with torch and save it again`);
  }
  if (head.readUInt32LE(0) !== 0x04034b50) {
    throw new IFError('FILE_FORMAT', `${file}: not a torch archive (it does not begin as a zip file)`);
  }
}

/** `NAME/` of the one `NAME/data.pkl`. */
function archivePrefix(zip: ZipReader): string {
  const found = [...zip.entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (found.length !== 1) throw new IFError('FILE_FORMAT', `${zip.file}: not a torch archive: ${found.length ? 'several' : 'no'} NAME/data.pkl in it`);
  return found[0]!.slice(0, -'data.pkl'.length);
}

/** Whether the elements follow one another in row-major order. */
function isDense({ shape, stride }: TensorRef): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && stride[i] !== expected) return false;
    expected *= shape[i]!;
  }
  return true;
}

/** Copies a strided view, whose first element is the first of `source`, into row-major order. */
function gather(source: Buffer, tensor: TensorRef, count: number): Buffer {
  const { shape, stride } = tensor;
  const size = DTYPE_BYTES[tensor.dtype];
  const out = Buffer.alloc(count * size);
  const input = words(source, size);
  const output = words(out, size);
  const last = shape.length - 1;
  const run = shape[last]!;
  const step = stride[last]!;
  const index = new Array<number>(last).fill(0);
  let from = 0;
  for (let to = 0; to < count; to += run) {
    for (let i = 0; i < run; i++) output[to + i] = input[from + i * step]!;
    for (let i = last - 1; i >= 0; i--) { // the next row, as an odometer
      from += stride[i]!;
      if (++index[i]! < shape[i]!) break;
      from -= stride[i]! * shape[i]!;
      index[i] = 0;
    }
  }
  return out;
}

/** The bytes as unsigned integers of `size` bytes; a copy where they do not begin at a multiple of it. */
function words(bytes: Buffer, size: number): { [index: number]: number | bigint } {
  const aligned: Uint8Array = bytes.byteOffset % size === 0 ? bytes : Uint8Array.from(bytes);
  const Type = size === 8 ? BigUint64Array : size === 4 ? Uint32Array : size === 2 ? Uint16Array : Uint8Array;
  return new Type(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.length / size);
}
