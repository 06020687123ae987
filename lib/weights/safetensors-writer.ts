import path from 'node:path';
import { addon, withSignal, type LoraProduct, type TensorInfo } from '../addon.js';
import { IFError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { tensorBytes, totalBytes, type FileDType, type TensorSpec } from './file-dtype.js';

/** What is written: names and shapes, in order, with the types that the file gets. */
export interface WrittenTensor extends TensorSpec {
  /** The elements, as `read` of a TensorSource gives them, and their type. */
  read: () => Promise<{ bytes: Buffer; dtype: FileDType }>;
  /** Products that are added to it. */
  lora?: LoraProduct[];
}

export interface WriteOptions {
  /** A file holds as many tensors as fit into so many bytes, one at least. Default: 10 GB, as diffusers' save_pretrained. */
  maxShardBytes?: number;
  /** Of every file. Default: the format that diffusers and transformers ask for. */
  metadata?: Readonly<Record<string, string>>;
  /** Bytes written so far, and in all. */
  onProgress?: ((done: number, total: number) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export const DEFAULT_SHARD_BYTES = 10e9;

/**
 * Writes the tensors of a model under the names that diffusers and transformers use: `BASE.safetensors`, or
 * `BASE-00001-of-00003.safetensors`, … and `BASE.safetensors.index.json`. One tensor is in memory at a time.
 * @param dir an existing folder
 * @returns the names of the files
 * @throws IFError `UNSUPPORTED` for a type that the engine does not have, `WEIGHTS` when a value does not fit into float16,
 *   `IO`, `CANCELLED`, and what the reads throw
 */
export async function writeModel(dir: string, base: string, tensors: readonly WrittenTensor[], options: WriteOptions = {}): Promise<string[]> {
  const shards = splitIntoShards(tensors, options.maxShardBytes ?? DEFAULT_SHARD_BYTES);
  const number = (i: number): string => String(i).padStart(5, '0');
  const names = shards.map((_, i) => (shards.length === 1 ? `${base}.safetensors` : `${base}-${number(i + 1)}-of-${number(shards.length)}.safetensors`));
  const total = totalBytes(tensors);
  let before = 0;
  for (const [i, shard] of shards.entries()) {
    await writeSafetensors(path.join(dir, names[i]!), shard, Object.entries(options.metadata ?? { format: 'pt' }), {
      signal: options.signal, onProgress: (done) => options.onProgress?.(before + done, total),
    });
    before += totalBytes(shard);
  }
  if (shards.length > 1) {
    const map = shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]!] as const)).sort(([a], [b]) => (a < b ? -1 : 1));
    const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(map) };
    names.push(`${base}.safetensors.index.json`);
    await writeFileAtomic(path.join(dir, names.at(-1)!), `${JSON.stringify(index, null, 2)}\n`);
  }
  return names;
}

/** Writes one safetensors file, tensor by tensor; it appears under its name when it is complete. Errors as writeModel. */
export async function writeSafetensors(
  file: string, tensors: readonly WrittenTensor[], metadata: [string, string][], { signal, onProgress }: Pick<WriteOptions, 'signal' | 'onProgress'> = {},
): Promise<void> {
  const infos = tensors.map(({ name, dtype, shape }) => ({ name, dtype: engineDType(dtype, name), shape }));
  const writer = await withSignal(signal, (token) => addon.safetensorsWriter(file, infos, metadata, token));
  const total = totalBytes(tensors);
  let done = 0;
  try {
    for (const tensor of tensors) {
      const { bytes, dtype } = await tensor.read();
      await withSignal(signal, (token) => addon.safetensorsWrite(writer, tensor.name, bytes, engineDType(dtype, tensor.name), tensor.lora, token));
      done += tensorBytes(tensor);
      onProgress?.(done, total);
    }
    await withSignal(signal, (token) => addon.safetensorsCommit(writer, token));
  } finally {
    addon.dispose(writer);
  }
}

const ENGINE_DTYPES: readonly string[] = ['f32', 'bf16', 'f16', 'i32', 'i64', 'u8'] satisfies TensorInfo['dtype'][];

function engineDType(dtype: FileDType, name: string): TensorInfo['dtype'] {
  if (!ENGINE_DTYPES.includes(dtype)) throw new IFError('UNSUPPORTED', `tensor ${JSON.stringify(name)} is ${dtype}; supported are ${ENGINE_DTYPES.join(', ')}`);
  return dtype as TensorInfo['dtype'];
}

/** As huggingface_hub's split_state_dict_into_shards_factory: in order; a tensor larger than a shard gets one of its own. */
export function splitIntoShards<T extends TensorSpec>(tensors: readonly T[], maxBytes: number): T[][] {
  const shards: T[][] = [];
  let current: T[] = [];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (bytes > maxBytes) {
      shards.push([tensor]);
      continue;
    }
    if (size + bytes > maxBytes) {
      shards.push(current);
      current = [];
      size = 0;
    }
    current.push(tensor);
    size += bytes;
  }
  if (current.length > 0 || shards.length === 0) shards.push(current);
  return shards;
}
