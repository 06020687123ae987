// The members of a tar archive: ustar (POSIX.1-1988), with the extended headers of pax (POSIX.1-2001) and GNU tar for
// long names and large sizes. Only positions are read; nothing is ever written under a member's name.
import { open, type FileHandle } from 'node:fs/promises';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import type { Skipped } from './picture-dataset.js';

export interface TarMember {
  name: string;
  /** Bytes from the start of the archive. */
  offset: number;
  size: number;
}

export interface TarListing {
  /** Plain files, in the order of the archive. */
  members: TarMember[];
  /** What cannot be used: links and devices, members that are cut off, what lies behind a damaged header. */
  leftOut: Skipped[];
}

const BLOCK = 512;
const WINDOW = 65536; // bytes read at a time while looking for headers
const LARGEST_EXTENSION = 2 ** 20; // bytes of an extended header

/**
 * Lists an archive.
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT` when it is no tar archive (a compressed one is named), `IO`
 */
export async function listTar(file: string): Promise<TarListing> {
  let handle: FileHandle;
  try {
    handle = await open(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause: error });
    throw ioError('reading', file, error);
  }
  try {
    const found = await handle.stat();
    if (!found.isFile()) throw new IFError('FILE_FORMAT', `${file}: expected a tar archive, it is not a file`);
    return await list(new WindowReader(handle), found.size, file);
  } catch (error) {
    throw ioError('reading', file, error);
  } finally {
    await handle.close();
  }
}

/** Small reads at growing positions, by larger ones. */
class WindowReader {
  private window = Buffer.alloc(0);
  private start = 0;
  constructor(private readonly handle: FileHandle) {}

  /** Fewer bytes than asked for at the end of the file. */
  async read(at: number, length: number): Promise<Buffer> {
    if (!(at >= this.start && at + length <= this.start + this.window.length)) {
      const buffer = Buffer.allocUnsafe(Math.max(length, WINDOW));
      let filled = 0;
      for (let read = -1; filled < buffer.length && read !== 0; filled += read) {
        read = (await this.handle.read(buffer, filled, buffer.length - filled, at + filled)).bytesRead;
      }
      this.window = buffer.subarray(0, filled);
      this.start = at;
    }
    return this.window.subarray(at - this.start, at - this.start + length);
  }
}

async function list(reader: WindowReader, fileSize: number, file: string): Promise<TarListing> {
  const listing: TarListing = { members: [], leftOut: [] };
  let extended: { name?: string; size?: number } = {};
  for (let at = 0; at < fileSize;) {
    const block = await reader.read(at, BLOCK);
    const isShort = block.length < BLOCK;
    if (isShort && at > 0) {
      listing.leftOut.push({ key: `byte ${at}`, reason: 'the archive ends inside a header' });
      break;
    }
    if (!isShort && block.every((byte) => byte === 0)) break; // the end of the archive
    const header = isShort ? undefined : parseHeader(block);
    if (!header) {
      if (at === 0) throw new IFError('FILE_FORMAT', `${file}: it is not a tar archive${compression(block)}`);
      listing.leftOut.push({ key: `byte ${at}`, reason: 'there is no tar header here; the rest of the archive is left out' });
      break;
    }
    const isExtension = 'xgLK'.includes(header.type);
    const size = isExtension ? header.size : extended.size ?? header.size;
    const name = extended.name ?? header.name;
    const offset = at + BLOCK;
    if (!(offset + size <= fileSize)) {
      listing.leftOut.push({ key: name, reason: `it claims ${size} bytes, but the archive ends after ${fileSize - offset}` });
      break;
    }
    at = offset + Math.ceil(size / BLOCK) * BLOCK;
    if (isExtension) {
      if (size > LARGEST_EXTENSION) throw new IFError('FILE_FORMAT', `${file}: an extended header of ${size} bytes at byte ${offset - BLOCK}, more than ${LARGEST_EXTENSION}`);
      const content = await reader.read(offset, size);
      if (header.type === 'L') extended.name = untilNul(content);
      if (header.type === 'x') extended = { ...extended, ...parsePax(content, file, offset) };
      continue; // g: of the whole archive, K: of a link; neither says anything about files
    }
    if ('07\0'.includes(header.type)) listing.members.push({ name, offset, size });
    else if (header.type !== '5') listing.leftOut.push({ key: name, reason: '12'.includes(header.type) ? 'it is a link, expected a file' : 'it is not a plain file' });
    extended = {};
  }
  return listing;
}

/** undefined: not a header. */
function parseHeader(block: Buffer): { name: string; size: number; type: string } | undefined {
  // the sum of all bytes, those of the sum itself as spaces
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += block[i]!;
  if (parseNumber(block.subarray(148, 156)) !== sum) return undefined;
  const size = parseNumber(block.subarray(124, 136));
  if (size === undefined) return undefined;
  const isPosix = block.toString('latin1', 257, 263) === 'ustar\0'; // GNU's magic has no prefix field
  const prefix = isPosix ? untilNul(block.subarray(345, 500)) : '';
  const name = untilNul(block.subarray(0, 100));
  return { name: prefix === '' ? name : `${prefix}/${name}`, size, type: String.fromCharCode(block[156]!) };
}

/** Octal digits, or GNU's big-endian binary with the first bit set; undefined for anything else. */
function parseNumber(field: Buffer): number | undefined {
  if (field[0] === 0x80) {
    let value = 0;
    for (const byte of field.subarray(1)) value = value * 256 + byte;
    return Number.isSafeInteger(value) ? value : undefined;
  }
  const digits = /^ *([0-7]*)[ \0]*$/.exec(field.toString('latin1'))?.[1];
  return digits === undefined ? undefined : parseInt(digits || '0', 8);
}

function untilNul(field: Buffer): string {
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? field.length : end);
}

/** Records `LENGTH KEY=VALUE\n`, the length in bytes including itself. */
function parsePax(content: Buffer, file: string, offset: number): { name?: string; size?: number } {
  const found: { name?: string; size?: number } = {};
  for (let at = 0; at < content.length;) {
    const space = content.indexOf(0x20, at);
    const length = space < 0 ? NaN : Number(content.toString('latin1', at, space));
    const end = at + length;
    if (!(Number.isInteger(length) && length > 0 && space < end && end <= content.length)) throw new IFError('FILE_FORMAT', `${file}: a damaged extended header at byte ${offset + at}`);
    const record = content.toString('utf8', space + 1, end - 1);
    const equals = record.indexOf('=');
    const value = record.slice(equals + 1);
    if (record.slice(0, equals) === 'path') found.name = value;
    if (record.slice(0, equals) === 'size') {
      const size = Number(value);
      if (!(Number.isSafeInteger(size) && size >= 0)) throw new IFError('FILE_FORMAT', `${file}: a damaged size in the extended header at byte ${offset + at}`);
      found.size = size;
    }
    at = end;
  }
  return found;
}

function compression(block: Buffer): string {
  if (block[0] === 0x1f && block[1] === 0x8b) return ', but compressed with gzip; unpack it first (gunzip)';
  if (block.toString('latin1', 0, 3) === 'BZh') return ', but compressed with bzip2; unpack it first (bunzip2)';
  if (block.toString('latin1', 0, 4) === '\x28\xb5\x2f\xfd') return ', but compressed with zstd; unpack it first (unzstd)';
  return '';
}
