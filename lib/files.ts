import { randomBytes } from 'node:crypto';
import { open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from './errors.js';

const REASONS: Record<string, string> = {
  EACCES: 'permission denied: choose a folder that you may write to, or change its permissions',
  EPERM: 'operation not permitted: check the permissions of the file and its folder',
  EROFS: 'the file system is read-only: choose another folder',
  ENOENT: 'the file or its folder does not exist: create the folder first, or check the spelling',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EISDIR: 'the path is a folder, expected a file',
  ENOSPC: 'no space is left on the device: free some, or choose another folder',
  EDQUOT: 'the disk quota is used up: free some space, or choose another folder',
  EMFILE: 'too many open files: raise the limit (ulimit -n)',
};

/** Whether `error` comes from the operating system (it carries an errno name such as ENOENT). */
function isSystemError(error: unknown): error is NodeJS.ErrnoException & { code: string } {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string'
    && typeof (error as NodeJS.ErrnoException).errno === 'number';
}

/**
 * The typed form of an error that a file operation threw.
 * @param operation what was being done, for the message, e.g. `reading`
 * @returns an IFError with code `IO` that names the file, the errno and a remedy, the original as `cause`; anything that
 *   does not come from the operating system is returned unchanged
 */
export function ioError(operation: string, file: string, error: unknown): unknown {
  if (!isSystemError(error)) return error;
  const reason = REASONS[error.code] ?? error.message;
  return new IFError('IO', `${operation} ${file}: ${reason} (${error.code})`, { cause: error });
}

const LARGEST_READ = 2 ** 30; // Node refuses reads of 2 GiB and more

/**
 * Reads exactly `length` bytes from `position` of an open file.
 * @param file its name, for messages
 * @throws IFError `FILE_FORMAT` when the file ends before, `IO` with the operating system's reason
 */
export async function readExactly(handle: FileHandle, position: number, length: number, file: string): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const want = Math.min(LARGEST_READ, length - done);
    const { bytesRead } = await handle.read(bytes, done, want, position + done).catch((error: unknown) => {
      throw ioError('reading', file, error);
    });
    if (bytesRead === 0) throw new IFError('FILE_FORMAT', `${file}: the file is cut off: expected ${length} bytes at ${position}, got ${done}`);
    done += bytesRead;
  }
  return bytes;
}

/** A name in the same folder, of a length that does not depend on the file's. */
export function temporaryName(file: string): string {
  return path.join(path.dirname(file), `.if-${randomBytes(8).toString('hex')}.tmp`);
}

const LONGEST_NAME = 255; // bytes, on all common file systems

/**
 * Checks that a file could be written: makes and removes an empty file in its folder.
 * @throws IFError `IO` with the operating system's reason
 */
export async function checkWritable(file: string): Promise<void> {
  if (Buffer.byteLength(path.basename(file)) > LONGEST_NAME) throw new IFError('IO', `writing ${file}: the name is longer than ${LONGEST_NAME} bytes (ENAMETOOLONG)`);
  const temporary = temporaryName(file);
  try {
    await (await open(temporary, 'wx')).close();
    await rm(temporary);
  } catch (error) {
    throw ioError('writing', file, error);
  }
}

/**
 * Writes a file so that a reader sees the old content or the whole new one, never a part: a temporary file in the same
 * folder, flushed to the disk, then renamed. The temporary file is removed when anything fails.
 * @param data the bytes, text (UTF-8), or chunks that are written as they come
 * @throws IFError `IO` with the operating system's reason; an error thrown by the iterable passes through
 */
export async function writeFileAtomic(
  file: string, data: Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const temporary = temporaryName(file);
  try {
    const handle = await open(temporary, 'wx');
    try {
      await writeFile(handle, data);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined); // the first error is the one to report
    throw ioError('writing', file, error);
  }
}
