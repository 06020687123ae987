import { mkdir, readdir, realpath, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError, temporaryName } from '../files.js';

export interface OutputOptions {
  /** Replace what is there, if it is a model. */
  force?: boolean;
}

/** What tells a folder that may be replaced: files that every model folder has one of. */
const MODEL_FILES = ['model_index.json', 'config.json', 'config.yml', 'adapter_config.json', 'pytorch_lora_weights.safetensors'];

/**
 * Fills a folder that appears under its name when it is complete. A folder that is there is kept until then.
 * @param out the new folder; its parent folders are made
 * @param inputs files and folders that are read: `out` may neither be, hold, nor lie in one of them
 * @param fill writes into the folder that it is given
 * @throws IFError `INVALID_ARGUMENT` when `out` is an input, `IO` when it is there (and not empty) and `force` is not set,
 *   or it does not look like a model; the operating system's reasons; what `fill` throws, after which nothing is left
 */
export async function writeFolder<T>(out: string, inputs: readonly string[], options: OutputOptions, fill: (dir: string) => Promise<T>): Promise<T> {
  const target = path.resolve(out);
  const present = await checkOutput(target, inputs, options, 'folder');
  const temporary = temporaryName(target);
  try {
    await mkdir(temporary, { recursive: true });
    const result = await fill(temporary);
    await replace(temporary, target, present);
    return result;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined); // the first error is the one to report
    throw ioError('writing', out, error);
  }
}

/**
 * As writeFolder, for a single file: checks only; the writers of single files are atomic themselves.
 * @throws IFError as writeFolder
 */
export async function checkOutputFile(out: string, inputs: readonly string[], options: OutputOptions): Promise<void> {
  await checkOutput(path.resolve(out), inputs, options, 'file');
}

/** Whether something is there that will be replaced. */
async function checkOutput(target: string, inputs: readonly string[], options: OutputOptions, kind: 'file' | 'folder'): Promise<boolean> {
  const resolved = await resolvedPath(target);
  for (const input of inputs) {
    const other = await resolvedPath(path.resolve(input));
    if (other === resolved || inside(other, resolved) || inside(resolved, other)) {
      throw new IFError('INVALID_ARGUMENT', `the output ${target} would overwrite or lie in the input ${input}: choose another place`);
    }
  }
  const info = await stat(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw ioError('writing', target, error);
  });
  if (!info) return false;
  if (info.isDirectory() !== (kind === 'folder')) throw new IFError('IO', `writing ${target}: there is a ${info.isDirectory() ? 'folder' : 'file'} of that name, a ${kind} was to be written`);
  const names = kind === 'folder' ? await readdir(target) : [];
  if (kind === 'folder' && names.length === 0) return true;
  if (!options.force) throw new IFError('IO', `writing ${target}: it is there already; pass --force to replace it`);
  if (kind === 'folder' && !MODEL_FILES.some((name) => names.includes(name))) {
    throw new IFError('IO', `writing ${target}: it is there and holds no model (none of ${MODEL_FILES.join(', ')}), so it is not replaced; remove it yourself or choose another place`);
  }
  return true;
}

/** Swaps the new folder in; the old one is removed last. */
async function replace(temporary: string, target: string, present: boolean): Promise<void> {
  if (!present) return rename(temporary, target);
  const old = temporaryName(target);
  await rename(target, old);
  try {
    await rename(temporary, target);
  } catch (error) {
    await rename(old, target);
    throw error;
  }
  await rm(old, { recursive: true, force: true });
}

/** Without symbolic links as far as the path exists. */
async function resolvedPath(target: string): Promise<string> {
  const real = await realpath(target).catch(() => undefined);
  if (real !== undefined) return real;
  const parent = path.dirname(target);
  return parent === target ? target : path.join(await resolvedPath(parent), path.basename(target));
}

function inside(child: string, folder: string): boolean {
  const relative = path.relative(folder, child);
  return relative !== '' && relative !== '..' && !relative.startsWith(`..${path.sep}`) && !path.isAbsolute(relative);
}
