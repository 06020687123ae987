import { stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { listFolder } from './walk.js';

const MOST_SHARDS = 100_000;

/**
 * The files that a configuration names.
 * @param names files, folders (every file with the extension below them), or names with ranges as webdataset writes them:
 *   `data-{000..127}.tar`
 * @param extension e.g. `.tar`
 * @throws IFError `NOT_FOUND` for names that do not exist and folders without such files, `INVALID_ARGUMENT` for one that is
 *   named twice, `IO`
 */
export async function resolveShards(names: string | readonly string[], extension: string): Promise<string[]> {
  const files: string[] = [];
  for (const name of typeof names === 'string' ? [names] : names) {
    for (const file of expandRanges(name)) files.push(...await resolveOne(file, extension));
  }
  if (files.length === 0) throw new IFError('NOT_FOUND', 'data.path: it names no file');
  const twice = files.find((file, i) => files.indexOf(file) !== i);
  if (twice !== undefined) throw new IFError('INVALID_ARGUMENT', `data.path: ${twice} is named twice`);
  return files;
}

/** What messages call files: their last parts, or whole paths where two have the same. */
export function shardNames(files: readonly string[]): string[] {
  const names = files.map((file) => path.basename(file));
  return new Set(names).size === names.length ? names : [...files];
}

async function resolveOne(name: string, extension: string): Promise<string[]> {
  const found = await stat(name).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') throw new IFError('NOT_FOUND', `data.path: ${name} does not exist`);
    throw ioError('reading', name, error);
  });
  if (!found.isDirectory()) return [name];
  const files = (await listFolder(name)).files.filter((file) => file.endsWith(extension));
  if (files.length === 0) throw new IFError('NOT_FOUND', `data.path: the folder ${name} has no ${extension} file`);
  return files.map((file) => path.join(name, file));
}

/** Every `{first..last}` counted up, with as many digits as `first` has; the name itself when there is none. */
function expandRanges(name: string): string[] {
  const range = /\{(\d+)\.\.(\d+)\}/.exec(name);
  if (!range) return [name];
  const [first, last] = [Number(range[1]), Number(range[2])];
  if (!(first <= last && last - first < MOST_SHARDS)) throw new IFError('INVALID_ARGUMENT', `data.path: expected a range {first..last} of at most ${MOST_SHARDS} files, got ${range[0]}`);
  const names: string[] = [];
  for (let i = first; i <= last; i++) {
    names.push(...expandRanges(name.slice(0, range.index) + String(i).padStart(range[1]!.length, '0') + name.slice(range.index + range[0].length)));
    if (names.length > MOST_SHARDS) throw new IFError('INVALID_ARGUMENT', `data.path: ${name} names more than ${MOST_SHARDS} files`);
  }
  return names;
}
