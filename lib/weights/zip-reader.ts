// The zip format (PKWARE APPNOTE.TXT 6.3): what torch archives use of it, and nothing that an archive could do harm with.
import { open, type FileHandle } from 'node:fs/promises';
import { crc32, inflateRaw } from 'node:zlib';
import { IFError } from '../errors.js';
import { ioError, readExactly } from '../files.js';

export interface ZipEntry {
  /** Relative, with forward slashes; never leaves the archive's own tree. */
  name: string;
  method: 'stored' | 'deflated';
  /** Bytes of the content. */
  size: number;
  /** Bytes in the file. */
  packedSize: number;
  crc32: number;
  /** Where the local header begins. */
  header: number;
}

const END = 0x06054b50;
const ZIP64_END = 0x06064b50;
const ZIP64_LOCATOR = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const END_SIZE = 22;
const CENTRAL_SIZE = 46;
const LOCAL_SIZE = 30;
const LONGEST_COMMENT = 0xffff;
const UNSET = 0xffffffff; // the value is in the zip64 extra field
const ZIP64_EXTRA = 0x0001;
const ENCRYPTED = 0x2041; // flag bits 0, 6, 13

// Far above any checkpoint (IF-I-XL with optimizer state: about 4,000 entries of 80 bytes).
const MOST_ENTRIES = 200_000;
const LARGEST_DIRECTORY = 64 * 2 ** 20;
const DEFLATE_LIMIT = 1032; // output bytes per input byte, at most (zlib technical notes)

const decoder = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads the header of the central directory that begins at `at`.
 * @returns the entry, and where the next header begins
 * @throws IFError `FILE_FORMAT` when it is damaged, names a path outside of the archive, or claims what cannot be
 */
export function parseCentralHeader(directory: Buffer, at: number, where: string): { entry: ZipEntry; next: number } {
  const damaged = (what: string): IFError => new IFError('FILE_FORMAT', `${where}: central directory: ${what}`);
  if (at + CENTRAL_SIZE > directory.length || directory.readUInt32LE(at) !== CENTRAL) throw damaged(`expected an entry at byte ${at}`);
  const flags = directory.readUInt16LE(at + 8);
  const method = directory.readUInt16LE(at + 10);
  const nameLength = directory.readUInt16LE(at + 28);
  const extraLength = directory.readUInt16LE(at + 30);
  const next = at + CENTRAL_SIZE + nameLength + extraLength + directory.readUInt16LE(at + 32);
  if (next > directory.length) throw damaged('the last entry is cut off');
  const extraAt = at + CENTRAL_SIZE + nameLength;
  const name = entryName(directory.subarray(at + CENTRAL_SIZE, extraAt), damaged);
  const bad = (what: string): IFError => new IFError('FILE_FORMAT', `${where}: entry ${JSON.stringify(name)}: ${what}`);

  const fields = [directory.readUInt32LE(at + 24), directory.readUInt32LE(at + 20), directory.readUInt32LE(at + 42)];
  const [size, packedSize, header] = zip64Values(fields, directory.subarray(extraAt, extraAt + extraLength), bad) as [number, number, number];
  if (flags & ENCRYPTED) throw bad('it is encrypted');
  if (method !== 0 && method !== 8) throw bad(`compression method ${method} (supported: 0 stored, 8 deflated)`);
  if (method === 0 && size !== packedSize) throw bad(`stored, but ${packedSize} bytes are said to hold ${size}`);
  if (method === 8 && size > packedSize * DEFLATE_LIMIT) throw bad(`${packedSize} deflated bytes cannot hold ${size}`);
  return { entry: { name, method: method === 0 ? 'stored' : 'deflated', size, packedSize, crc32: directory.readUInt32LE(at + 16), header }, next };
}

/** The 32-bit fields, those that are unset read from the zip64 extra field, which has them in this order. */
function zip64Values(fields: number[], extra: Buffer, bad: (what: string) => IFError): number[] {
  if (!fields.includes(UNSET)) return fields;
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== ZIP64_EXTRA) continue;
    const end = at + 4 + extra.readUInt16LE(at + 2);
    let from = at + 4;
    return fields.map((field) => {
      if (field !== UNSET) return field;
      from += 8;
      if (from > end || end > extra.length) throw bad('the zip64 field is too short');
      return safeNumber(extra.readBigUInt64LE(from - 8), bad);
    });
  }
  throw bad('the zip64 field is missing');
}

function safeNumber(value: bigint, bad: (what: string) => IFError): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(`a size of ${value} bytes`);
  return Number(value);
}

/** Refuses names that would lead out of a folder: absolute ones, `..`, backslashes, drive letters, control characters. */
function entryName(bytes: Buffer, damaged: (what: string) => IFError): string {
  let name: string;
  try {
    name = decoder.decode(bytes);
  } catch {
    throw damaged('a name that is not UTF-8');
  }
  const segments = name.replace(/\/$/, '').split('/');
  if (/[\\:\u0000-\u001f]/.test(name) || segments.some((segment) => segment === '' || segment === '.' || segment === '..')) {
    throw damaged(`the name ${JSON.stringify(name)} leads out of the archive`);
  }
  return name;
}

/** A zip file, opened for reading. Only the directory is in memory. */
export class ZipReader {
  private constructor(
    readonly file: string,
    private readonly handle: FileHandle,
    /** By name. */
    readonly entries: ReadonlyMap<string, ZipEntry>,
    /** Where the bytes of an entry must end: the next local header, or the central directory. */
    private readonly limits: ReadonlyMap<string, number>,
  ) {}

  /**
   * Reads the directory and checks it as a whole.
   * @throws IFError `NOT_FOUND`, `IO`; `FILE_FORMAT` for anything that is no intact zip file: cut off, several disks,
   *   encrypted, other compression methods, repeated names, entries that overlap, names that lead out of the archive
   */
  static async open(file: string): Promise<ZipReader> {
    const handle = await open(file, 'r').catch((cause: unknown) => {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause });
      throw ioError('reading', file, cause);
    });
    try {
      const info = await handle.stat();
      if (!info.isFile()) throw new IFError('FILE_FORMAT', `${file}: expected a file, got a ${info.isDirectory() ? 'folder' : 'device or pipe'}`);
      const { offset, directory, count } = await readDirectory(handle, info.size, file);
      const entries = new Map<string, ZipEntry>();
      let at = 0;
      for (let i = 0; i < count; i++) {
        const { entry, next } = parseCentralHeader(directory, at, file);
        if (entries.has(entry.name)) throw new IFError('FILE_FORMAT', `${file}: two entries are called ${JSON.stringify(entry.name)}`);
        entries.set(entry.name, entry);
        at = next;
      }
      if (at !== directory.length) throw new IFError('FILE_FORMAT', `${file}: central directory: ${directory.length - at} bytes after its ${count} entries`);
      return new ZipReader(file, handle, entries, layoutLimits(entries, offset, file));
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  /**
   * The content of an entry, or `length` bytes of it from `begin`. A stored entry is read from the file where it lies, a
   * deflated one is unpacked as a whole. The checksum is tested whenever the whole content is at hand.
   * @throws IFError `FILE_FORMAT` when the entry is damaged, `IO`
   */
  async read(entry: ZipEntry, begin = 0, length: number = entry.size - begin): Promise<Buffer> {
    if (begin < 0 || length < 0 || begin + length > entry.size) {
      throw new IFError('FILE_FORMAT', `${this.file}: entry ${JSON.stringify(entry.name)}: bytes ${begin} to ${begin + length} of ${entry.size}`);
    }
    const offset = await this.dataOffset(entry);
    if (entry.method === 'stored') {
      const bytes = await readExactly(this.handle, offset + begin, length, this.file);
      return length === entry.size ? this.checked(entry, bytes) : bytes;
    }
    const packed = await readExactly(this.handle, offset, entry.packedSize, this.file);
    return this.checked(entry, await this.inflate(entry, packed)).subarray(begin, begin + length);
  }

  /** Never more than the size that the directory gives. */
  private inflate(entry: ZipEntry, packed: Buffer): Promise<Buffer> {
    const bad = (what: string, cause?: unknown): IFError => new IFError('FILE_FORMAT', `${this.file}: entry ${JSON.stringify(entry.name)}: ${what}`, { cause });
    return new Promise((resolve, reject) => {
      inflateRaw(packed, { maxOutputLength: Math.max(1, entry.size) }, (error, bytes) => {
        if ((error as NodeJS.ErrnoException | null)?.code === 'ERR_BUFFER_TOO_LARGE') reject(bad(`it unpacks to more than the ${entry.size} bytes it claims`, error));
        else if (error) reject(bad(`it cannot be unpacked (${error.message})`, error));
        else if (bytes.length !== entry.size) reject(bad(`it unpacks to ${bytes.length} bytes, not the ${entry.size} it claims`));
        else resolve(bytes);
      });
    });
  }

  private checked(entry: ZipEntry, bytes: Buffer): Buffer {
    if (crc32(bytes) !== entry.crc32) throw new IFError('FILE_FORMAT', `${this.file}: entry ${JSON.stringify(entry.name)}: the checksum is wrong; the file is damaged`);
    return bytes;
  }

  /** Past the local header, whose extra field the directory does not know (torch aligns the data with it). */
  private async dataOffset(entry: ZipEntry): Promise<number> {
    const bad = (what: string): IFError => new IFError('FILE_FORMAT', `${this.file}: entry ${JSON.stringify(entry.name)}: ${what}`);
    const local = await readExactly(this.handle, entry.header, LOCAL_SIZE, this.file);
    if (local.readUInt32LE(0) !== LOCAL) throw bad(`no local header at byte ${entry.header}`);
    const name = await readExactly(this.handle, entry.header + LOCAL_SIZE, local.readUInt16LE(26), this.file);
    if (name.toString('utf8') !== entry.name) throw bad(`the local header calls it ${JSON.stringify(name.toString('utf8'))}`);
    const offset = entry.header + LOCAL_SIZE + name.length + local.readUInt16LE(28);
    if (offset + entry.packedSize > this.limits.get(entry.name)!) throw bad('it overlaps the entry behind it');
    return offset;
  }
}

/** The central directory's bytes, their place in the file, and the number of entries. */
async function readDirectory(handle: FileHandle, fileSize: number, file: string): Promise<{ offset: number; directory: Buffer; count: number }> {
  const bad = (what: string): IFError => new IFError('FILE_FORMAT', `${file}: ${what}`);
  const tail = await readExactly(handle, Math.max(0, fileSize - END_SIZE - LONGEST_COMMENT), Math.min(fileSize, END_SIZE + LONGEST_COMMENT), file);
  const at = endRecord(tail);
  if (at === undefined) throw bad('not a zip file, or cut off: no end of central directory');
  let count = tail.readUInt16LE(at + 10);
  let size = tail.readUInt32LE(at + 12);
  let offset = tail.readUInt32LE(at + 16);
  const end = fileSize - tail.length + at;
  let directoryEnd = end;
  if (end >= 20) {
    const locator = await readExactly(handle, end - 20, 20, file);
    if (locator.readUInt32LE(0) === ZIP64_LOCATOR) {
      directoryEnd = safeNumber(locator.readBigUInt64LE(8), bad);
      if (directoryEnd > end - 20 - 56) throw bad('the zip64 end record lies outside of the file');
      const record = await readExactly(handle, directoryEnd, 56, file);
      if (record.readUInt32LE(0) !== ZIP64_END) throw bad(`no zip64 end record at byte ${directoryEnd}`);
      count = safeNumber(record.readBigUInt64LE(32), bad);
      size = safeNumber(record.readBigUInt64LE(40), bad);
      offset = safeNumber(record.readBigUInt64LE(48), bad);
    }
  }
  if (count > MOST_ENTRIES || size > LARGEST_DIRECTORY) throw bad(`a central directory of ${count} entries in ${size} bytes is not one of a checkpoint`);
  if (offset + size !== directoryEnd) throw bad(`the central directory should end at byte ${directoryEnd}, it is said to be at ${offset} with ${size} bytes`);
  return { offset, directory: await readExactly(handle, offset, size, file), count };
}

/** Where the end-of-central-directory record begins whose comment ends with the file. */
function endRecord(tail: Buffer): number | undefined {
  for (let at = tail.length - END_SIZE; at >= 0; at--) {
    if (tail.readUInt32LE(at) === END && at + END_SIZE + tail.readUInt16LE(at + 20) === tail.length) return at;
  }
  return undefined;
}

/** Refuses entries that share bytes (overlapping files are how a small archive unpacks to terabytes; D. Fifield 2019). */
function layoutLimits(entries: ReadonlyMap<string, ZipEntry>, directoryOffset: number, file: string): Map<string, number> {
  const sorted = [...entries.values()].sort((a, b) => a.header - b.header);
  const limits = new Map<string, number>();
  for (const [i, entry] of sorted.entries()) {
    const limit = sorted[i + 1]?.header ?? directoryOffset;
    if (entry.header + LOCAL_SIZE + Buffer.byteLength(entry.name) + entry.packedSize > limit) {
      throw new IFError('FILE_FORMAT', `${file}: entry ${JSON.stringify(entry.name)} of ${entry.packedSize} bytes at ${entry.header} overlaps what begins at ${limit}`);
    }
    limits.set(entry.name, limit);
  }
  return limits;
}
