// Zip files as torch.save writes them: stored entries whose data begins at a multiple of 64 bytes, zip64 where it is needed.
import { crc32 } from 'node:zlib';

export interface ZipContent {
  name: string;
  bytes: Uint8Array;
}

const ALIGNMENT = 64; // torch/serialization.py: .storage_alignment
const UNSET = 0xffffffff;
const VERSION = 45; // zip64
const UTF8 = 0x0800;

interface Written {
  name: Buffer;
  size: number;
  crc: number;
  header: number;
}

/** The bytes of a zip file, piece by piece; one entry is in memory at a time. */
export async function* zipChunks(contents: Iterable<ZipContent> | AsyncIterable<ZipContent>): AsyncGenerator<Uint8Array> {
  const entries: Written[] = [];
  let offset = 0;
  for await (const { name, bytes } of contents) {
    const entry: Written = { name: Buffer.from(name), size: bytes.length, crc: crc32(bytes), header: offset };
    const header = localHeader(entry);
    yield header;
    yield bytes;
    entries.push(entry);
    offset += header.length + bytes.length;
  }
  const directory = Buffer.concat(entries.map(centralHeader));
  yield directory;
  yield endRecords(entries.length, offset, directory.length);
}

/** The sizes that do not fit into 32 bits, as a zip64 extra field. */
function zip64Extra(values: number[]): Buffer {
  const large = values.filter((value) => value >= UNSET);
  const extra = Buffer.alloc(large.length ? 4 + 8 * large.length : 0);
  if (large.length) {
    extra.writeUInt16LE(0x0001, 0);
    extra.writeUInt16LE(8 * large.length, 2);
    large.forEach((value, i) => extra.writeBigUInt64LE(BigInt(value), 4 + 8 * i));
  }
  return extra;
}

const capped = (value: number): number => Math.min(value, UNSET);

function localHeader(entry: Written): Buffer {
  // a local header has both sizes or none in its zip64 field (APPNOTE 4.5.3)
  const zip64 = entry.size >= UNSET ? zip64Extra([entry.size, entry.size]) : Buffer.alloc(0);
  const start = entry.header + 30 + entry.name.length + zip64.length + 4;
  const padding = Buffer.alloc(4 + (ALIGNMENT - (start % ALIGNMENT)) % ALIGNMENT, 'Z');
  padding.write('FB', 0, 'latin1'); // the field that torch pads with
  padding.writeUInt16LE(padding.length - 4, 2);
  const header = Buffer.alloc(30);
  header.writeUInt32LE(0x04034b50, 0);
  header.writeUInt16LE(VERSION, 4);
  header.writeUInt16LE(UTF8, 6);
  header.writeUInt32LE(entry.crc, 14);
  header.writeUInt32LE(capped(entry.size), 18);
  header.writeUInt32LE(capped(entry.size), 22);
  header.writeUInt16LE(entry.name.length, 26);
  header.writeUInt16LE(zip64.length + padding.length, 28);
  return Buffer.concat([header, entry.name, zip64, padding]);
}

/** The entry's header in the central directory. */
export function centralHeader(entry: Written): Buffer {
  const extra = zip64Extra([entry.size, entry.size, entry.header]);
  const header = Buffer.alloc(46);
  header.writeUInt32LE(0x02014b50, 0);
  header.writeUInt16LE(VERSION, 4);
  header.writeUInt16LE(VERSION, 6);
  header.writeUInt16LE(UTF8, 8);
  header.writeUInt32LE(entry.crc, 16);
  header.writeUInt32LE(capped(entry.size), 20);
  header.writeUInt32LE(capped(entry.size), 24);
  header.writeUInt16LE(entry.name.length, 28);
  header.writeUInt16LE(extra.length, 30);
  header.writeUInt32LE(capped(entry.header), 42);
  return Buffer.concat([header, entry.name, extra]);
}

/** The zip64 end record, its locator, and the end record; torch writes all three whatever the size. */
function endRecords(count: number, offset: number, size: number): Buffer {
  const end = Buffer.alloc(56 + 20 + 22);
  end.writeUInt32LE(0x06064b50, 0);
  end.writeBigUInt64LE(44n, 4);
  end.writeUInt16LE(VERSION, 12);
  end.writeUInt16LE(VERSION, 14);
  end.writeBigUInt64LE(BigInt(count), 24);
  end.writeBigUInt64LE(BigInt(count), 32);
  end.writeBigUInt64LE(BigInt(size), 40);
  end.writeBigUInt64LE(BigInt(offset), 48);
  end.writeUInt32LE(0x07064b50, 56);
  end.writeBigUInt64LE(BigInt(offset + size), 64);
  end.writeUInt32LE(1, 72);
  end.writeUInt32LE(0x06054b50, 76);
  end.writeUInt16LE(Math.min(count, 0xffff), 84);
  end.writeUInt16LE(Math.min(count, 0xffff), 86);
  end.writeUInt32LE(capped(size), 88);
  end.writeUInt32LE(capped(offset), 92);
  return end;
}
