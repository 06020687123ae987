import { open } from 'node:fs/promises';
import { addon, withSignal } from '../addon.js';
import { IFError } from '../errors.js';
import { ioError, readExactly } from '../files.js';
import type { FileDType, TensorSpec } from './file-dtype.js';
import { TorchArchive } from './torch-archive.js';
import type { TensorRef } from './torch-globals.js';

/** Named tensors in files: described at once, read one by one. Close it when done. */
export interface TensorSource {
  /** In the order of the files. */
  readonly specs: ReadonlyMap<string, TensorSpec>;
  /** Dense, row-major, little-endian elements. @throws IFError `NOT_FOUND` for an unknown name; `FILE_FORMAT`, `IO` */
  read(name: string): Promise<Buffer>;
  close(): Promise<void>;
}

/**
 * Opens the tensor files of one model: `.safetensors`, or torch archives (`.bin`, `.pt`, `.pth`) that hold a state dict.
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`, `IO`; `FILE_FORMAT` when two files have a tensor of one name
 */
export async function openWeights(files: readonly string[], signal?: AbortSignal): Promise<TensorSource> {
  const sources: TensorSource[] = [];
  try {
    for (const file of files) sources.push(file.endsWith('.safetensors') ? await openSafetensors(file, signal) : await openStateDict(file));
    return merged(sources, files);
  } catch (error) {
    for (const source of sources) await source.close();
    throw error;
  }
}

/** One safetensors file. The header is checked natively (native/io/safetensors.h); the data stays in the file. */
export async function openSafetensors(file: string, signal?: AbortSignal): Promise<TensorSource & { metadata: Record<string, string> }> {
  const { tensors, metadata } = await withSignal(signal, (token) => addon.safetensorsInfo(file, token));
  const places = new Map(tensors.map(({ name, begin, end }) => [name, { begin, end }]));
  const handle = await open(file, 'r').catch((cause: unknown) => {
    throw ioError('reading', file, cause);
  });
  return {
    metadata,
    specs: new Map(tensors.map(({ name, dtype, shape }) => [name, { name, dtype: dtype.toLowerCase() as FileDType, shape }])),
    read: async (name) => {
      const { begin, end } = lookup(places, name, file);
      return readExactly(handle, begin, end - begin, file);
    },
    close: () => handle.close(),
  };
}

/**
 * A state dict in a torch archive.
 * @param keys where it lies in the saved object; empty: the object is the state dict
 */
export async function openStateDict(file: string, keys: readonly string[] = []): Promise<TensorSource> {
  const archive = await TorchArchive.open(file);
  try {
    return archiveSource(archive, archive.stateDict(keys));
  } catch (error) {
    await archive.close();
    throw error;
  }
}

/** Tensors of an open archive, under the names of the map; closing it closes the archive. */
export function archiveSource(archive: TorchArchive, tensors: ReadonlyMap<string, TensorRef>): TensorSource {
  return {
    specs: new Map([...tensors].map(([name, { dtype, shape }]) => [name, { name, dtype, shape }])),
    read: async (name) => archive.read(lookup(tensors, name, archive.file)),
    close: () => archive.close(),
  };
}

function merged(sources: TensorSource[], files: readonly string[]): TensorSource {
  if (sources.length === 1) return sources[0]!;
  const specs = new Map<string, TensorSpec>();
  const owners = new Map<string, number>();
  for (const [i, source] of sources.entries()) {
    for (const [name, spec] of source.specs) {
      const other = owners.get(name);
      if (other !== undefined) throw new IFError('FILE_FORMAT', `tensor ${JSON.stringify(name)} is in two files: ${files[other]} and ${files[i]}`);
      owners.set(name, i);
      specs.set(name, spec);
    }
  }
  return {
    specs,
    read: async (name) => sources[lookup(owners, name, files.join(', '))]!.read(name),
    close: async () => {
      for (const source of sources) await source.close();
    },
  };
}

function lookup<T>(map: ReadonlyMap<string, T>, name: string, where: string): T {
  const found = map.get(name);
  if (found === undefined) throw new IFError('NOT_FOUND', `${where}: no tensor ${JSON.stringify(name)}`);
  return found;
}
