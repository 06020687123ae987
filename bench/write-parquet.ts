// Parquet as Hugging Face's datasets write it through pyarrow: columns image {bytes, path} and text, all optional, Snappy, row
// groups of a thousand rows with one page per column (github.com/apache/parquet-format, parquet.thrift and Encodings.md).
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';
import { finished } from 'node:stream/promises';

export interface ParquetRow { image: Uint8Array; text: string }

const BYTE_ARRAY = 6;
const [REQUIRED, OPTIONAL] = [0, 1];
const UTF8 = 0;
const [PLAIN, RLE] = [0, 3];
const SNAPPY = 1;

/** Thrift's compact protocol, as far as the footer needs it: structs are lists of [field number, value]. */
type Thrift = { i32: number } | { i64: number } | { text: string } | { list: Thrift[] } | { struct: [number, Thrift][] };
const CODES = { i32: 5, i64: 6, text: 8, list: 9, struct: 12 } as const;
const code = (value: Thrift): number => CODES[Object.keys(value)[0] as keyof typeof CODES];

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(128 + value % 128);
  return Buffer.from([...bytes, value]);
}

function thrift(value: Thrift): Buffer {
  if ('i32' in value) return varint(2 * value.i32); // zigzag of what is not negative
  if ('i64' in value) return varint(2 * value.i64);
  if ('text' in value) return Buffer.concat([varint(Buffer.byteLength(value.text)), Buffer.from(value.text)]);
  if ('list' in value) {
    const { list } = value;
    const header = list.length < 15 ? Buffer.from([16 * list.length + code(list[0]!)]) : Buffer.concat([Buffer.from([240 + code(list[0]!)]), varint(list.length)]);
    return Buffer.concat([header, ...list.map(thrift)]);
  }
  const fields = value.struct.flatMap(([number, field], i) => [Buffer.from([16 * (number - (value.struct[i - 1]?.[0] ?? 0)) + code(field)]), thrift(field)]);
  return Buffer.concat([...fields, Buffer.from([0])]);
}

/** Snappy without any compression: the length, then literals of at most 64 KiB. */
function snappyLiterals(bytes: Buffer): Buffer {
  const parts = [varint(bytes.length)];
  for (let at = 0; at < bytes.length; at += 65536) {
    const literal = bytes.subarray(at, at + 65536);
    parts.push(Buffer.from([61 << 2, (literal.length - 1) & 255, (literal.length - 1) >> 8]), literal);
  }
  return Buffer.concat(parts);
}

/** A data page whose values are all there, or (`present` below `levels`) none. */
function page(values: readonly Uint8Array[], rows: number, levels: number, present: number): Buffer {
  const runs = Buffer.concat([varint(2 * rows), Buffer.from([present])]);
  const length = (n: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(n);
    return bytes;
  };
  const plain = present === levels ? values.flatMap((value) => [length(value.length), value]) : [];
  const body = Buffer.concat([length(runs.length), runs, ...plain]);
  const packed = snappyLiterals(body);
  const header: Thrift = { struct: [[1, { i32: 0 }], [2, { i32: body.length }], [3, { i32: packed.length }], [5, { struct: [[1, { i32: rows }], [2, { i32: PLAIN }], [3, { i32: RLE }], [4, { i32: RLE }]] }]] };
  return Buffer.concat([thrift(header), packed]);
}

const element = (name: string, repetition: number, more: [number, Thrift][]): Thrift =>
  ({ struct: [...more.filter(([n]) => n < 3), [3, { i32: repetition }], [4, { text: name }], ...more.filter(([n]) => n > 4)] });
const SCHEMA: Thrift = { list: [
  element('schema', REQUIRED, [[5, { i32: 2 }]]),
  element('image', OPTIONAL, [[5, { i32: 2 }]]), element('bytes', OPTIONAL, [[1, { i32: BYTE_ARRAY }]]), element('path', OPTIONAL, [[1, { i32: BYTE_ARRAY }], [6, { i32: UTF8 }]]),
  element('text', OPTIONAL, [[1, { i32: BYTE_ARRAY }], [6, { i32: UTF8 }]]),
] };

/** Writes a file, group by group. */
export async function writeParquet(file: string, rows: number, row: (index: number) => ParquetRow, rowsPerGroup = 1000): Promise<void> {
  const stream = createWriteStream(file);
  let at = 0;
  const write = async (bytes: Buffer | string): Promise<void> => {
    at += bytes.length;
    if (!stream.write(bytes)) await once(stream, 'drain');
  };
  await write('PAR1');
  const groups: Thrift[] = [];
  for (let first = 0; first < rows; first += rowsPerGroup) {
    const group = Array.from({ length: Math.min(rowsPerGroup, rows - first) }, (_, i) => row(first + i));
    const columns: [string[], Buffer][] = [
      [['image', 'bytes'], page(group.map(({ image }) => image), group.length, 2, 2)],
      [['image', 'path'], page([], group.length, 2, 1)],
      [['text'], page(group.map(({ text }) => Buffer.from(text)), group.length, 1, 1)],
    ];
    const chunks: Thrift[] = [];
    for (const [path, bytes] of columns) {
      const size: Thrift = { i64: bytes.length };
      chunks.push({ struct: [[2, { i64: at }], [3, { struct: [
        [1, { i32: BYTE_ARRAY }], [2, { list: [{ i32: PLAIN }, { i32: RLE }] }], [3, { list: path.map((text) => ({ text })) }], [4, { i32: SNAPPY }],
        [5, { i64: group.length }], [6, size], [7, size], [9, { i64: at }],
      ] }]] });
      await write(bytes);
    }
    groups.push({ struct: [[1, { list: chunks }], [2, { i64: columns.reduce((sum, [, bytes]) => sum + bytes.length, 0) }], [3, { i64: group.length }]] });
  }
  const footer = thrift({ struct: [[1, { i32: 2 }], [2, SCHEMA], [3, { i64: rows }], [4, { list: groups }]] });
  await write(footer);
  const end = Buffer.alloc(8);
  end.writeUInt32LE(footer.length);
  end.write('PAR1', 4);
  await write(end);
  stream.end();
  await finished(stream);
}
