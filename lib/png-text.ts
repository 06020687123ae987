import { crc32, inflateSync } from 'node:zlib';
import { IFError } from './errors.js';

// PNG (ISO/IEC 15948): an 8-byte signature, then chunks {length, type, data, CRC-32 of type and data}, big-endian.
const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const AFTER_HEADER = SIGNATURE.length + 12 + 13; // IHDR has 13 bytes of data

/**
 * A PNG file with text entries after its header: `tEXt` where the value is Latin-1, `iTXt` (UTF-8) otherwise.
 * @param png a complete PNG file
 * @param entries keyword → value; a keyword has 1 to 79 printable Latin-1 characters, no space at the ends, none doubled
 * @throws IFError `INVALID_ARGUMENT` for keywords that PNG does not allow and values with a NUL
 */
export function insertPngText(png: Uint8Array, entries: Readonly<Record<string, string>>): Buffer {
  const chunks = Object.entries(entries).map(([keyword, value]) => textChunk(keyword, value));
  return Buffer.concat([png.subarray(0, AFTER_HEADER), ...chunks, png.subarray(AFTER_HEADER)]);
}

/**
 * The text entries (tEXt, zTXt, iTXt) of a PNG file.
 * @throws IFError `FILE_FORMAT` when the bytes are not a whole PNG file
 */
export function parsePngText(png: Buffer, where: string): Record<string, string> {
  if (!png.subarray(0, SIGNATURE.length).equals(SIGNATURE)) throw new IFError('FILE_FORMAT', `${where}: not a PNG file`);
  const entries: [string, string][] = [];
  for (let at = SIGNATURE.length; ;) {
    const end = at + 12 + (at + 8 <= png.length ? png.readUInt32BE(at) : Infinity);
    if (end > png.length) throw new IFError('FILE_FORMAT', `${where}: the PNG file ends within a chunk at byte ${at}`);
    const type = png.toString('latin1', at + 4, at + 8);
    if (crc32(png.subarray(at + 4, end - 4)) !== png.readUInt32BE(end - 4)) {
      throw new IFError('FILE_FORMAT', `${where}: the ${describeType(type)} chunk at byte ${at} is damaged (CRC)`);
    }
    const entry = readText(type, png.subarray(at + 8, end - 4), where);
    if (entry) entries.push(entry);
    if (type === 'IEND') return Object.fromEntries(entries);
    at = end;
  }
}

const describeType = (type: string): string => (/^[A-Za-z]{4}$/.test(type) ? type : 'unknown');

function textChunk(keyword: string, value: string): Buffer {
  if (!/^[\x21-\x7e\xa1-\xff]+( [\x21-\x7e\xa1-\xff]+)*$/.test(keyword) || keyword.length > 79) {
    throw new IFError('INVALID_ARGUMENT', `PNG text: keyword: expected 1 to 79 printable Latin-1 characters with single spaces between, got ${JSON.stringify(keyword.slice(0, 100))}`);
  }
  if (value.includes('\0')) throw new IFError('INVALID_ARGUMENT', `PNG text: the value of ${JSON.stringify(keyword)} has a NUL character: remove it`);
  const key = Buffer.from(`${keyword}\0`, 'latin1');
  if (/^[\n\x20-\x7e\xa1-\xff]*$/.test(value)) return chunk('tEXt', Buffer.concat([key, Buffer.from(value, 'latin1')]));
  // not compressed, compression method 0, no language, no translated keyword
  return chunk('iTXt', Buffer.concat([key, Buffer.from([0, 0, 0, 0]), Buffer.from(value, 'utf8')]));
}

function chunk(type: string, data: Buffer): Buffer {
  const out = Buffer.alloc(12 + data.length);
  out.writeUInt32BE(data.length, 0);
  out.write(type, 4, 'latin1');
  data.copy(out, 8);
  out.writeUInt32BE(crc32(out.subarray(4, 8 + data.length)), 8 + data.length);
  return out;
}

function readText(type: string, data: Buffer, where: string): [string, string] | undefined {
  if (type !== 'tEXt' && type !== 'zTXt' && type !== 'iTXt') return undefined;
  const fail = (): never => { throw new IFError('FILE_FORMAT', `${where}: a ${type} chunk is malformed`); };
  const next = (from: number): number => {
    const at = data.indexOf(0, from);
    return at < 0 ? fail() : at;
  };
  const keyEnd = next(0);
  const key = data.toString('latin1', 0, keyEnd);
  if (type === 'tEXt') return [key, data.toString('latin1', keyEnd + 1)];
  if (type === 'zTXt') return [key, inflate(data.subarray(keyEnd + 2), fail).toString('latin1')];
  const compressed = data[keyEnd + 1] === 1;
  const text = data.subarray(next(next(keyEnd + 3) + 1) + 1); // after language and translated keyword
  return [key, (compressed ? inflate(text, fail) : text).toString('utf8')];
}

function inflate(data: Buffer, fail: () => never): Buffer {
  try {
    return inflateSync(data, { maxOutputLength: 2 ** 24 }); // a small file must not fill the memory
  } catch {
    return fail();
  }
}
