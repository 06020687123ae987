import { open } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';

/**
 * Bytes of a file. It is opened for each read: a set may have more files than a process may have open.
 * @throws IFError `IO`, also when the file is shorter
 */
export async function readRange(file: string, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  let read: number;
  try {
    const handle = await open(file);
    try {
      read = (await handle.read(bytes, 0, length, offset)).bytesRead;
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ioError('reading', file, error);
  }
  if (read !== length) throw new IFError('IO', `reading ${path.basename(file)}: it was cut off since it was opened`);
  return bytes;
}
