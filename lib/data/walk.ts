import { readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import type { Skipped } from './picture-dataset.js';

export interface Listing {
  /** Paths below the folder, `/` between their parts, sorted by code units: the same on every machine. */
  files: string[];
  /** Links that lead nowhere or in a circle. */
  leftOut: Skipped[];
}

/**
 * Every file below a folder. Links are followed (download caches are made of them), each folder once; names that begin
 * with a dot are left out.
 * @throws IFError `NOT_FOUND` when the folder does not exist, `INVALID_ARGUMENT` when it is a file, `IO`
 */
export async function listFolder(folder: string): Promise<Listing> {
  const found = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') throw new IFError('NOT_FOUND', `data folder ${folder}: it does not exist; check the path`);
    throw ioError('reading', folder, error);
  });
  if (!found.isDirectory()) throw new IFError('INVALID_ARGUMENT', `data folder ${folder}: it is a file, expected a folder`);
  const listing: Listing = { files: [], leftOut: [] };
  const visited = new Set<string>();
  const visit = async (below: string): Promise<void> => {
    const here = path.join(folder, below);
    visited.add(await realpath(here));
    for (const entry of await readdir(here, { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue;
      const key = below === '' ? entry.name : `${below}/${entry.name}`;
      const isFolder = entry.isSymbolicLink() ? await leadsToFolder(key) : entry.isDirectory();
      if (isFolder === undefined) continue;
      if (!isFolder) {
        listing.files.push(key);
      } else if (visited.has(await realpath(path.join(folder, key)))) {
        listing.leftOut.push({ key, reason: 'it leads to a folder that is read already' });
      } else {
        await visit(key);
      }
    }
  };
  const leadsToFolder = async (key: string): Promise<boolean | undefined> => {
    try {
      return (await stat(path.join(folder, key))).isDirectory();
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      listing.leftOut.push({ key, reason: code === 'ELOOP' ? 'it is a link that leads in a circle' : 'it is a link to nothing' });
      return undefined;
    }
  };
  try {
    await visit('');
  } catch (error) {
    throw ioError('reading', folder, error);
  }
  listing.files.sort();
  return listing;
}

/**
 * The path below a folder that `name`, from a file that others wrote, stands for: `/` between its parts.
 * @returns undefined when it could lead out of the folder: absolute, with `..`, a drive, a web address or a NUL
 */
export function containedPath(name: string): string | undefined {
  if (name === '' || name.includes('\0') || /^([a-z]:|[a-z][a-z0-9+.-]*:\/\/)/i.test(name)) return undefined;
  if (path.posix.isAbsolute(name) || path.win32.isAbsolute(name)) return undefined;
  const parts = name.split(/[/\\]/);
  if (parts.includes('..')) return undefined;
  const normal = path.posix.normalize(name);
  return normal === '.' ? undefined : normal;
}
