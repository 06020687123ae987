// Data pages of Parquet columns of byte arrays (github.com/apache/parquet-format, README "Data Pages" and Encodings.md).
// Pages come from files that others wrote: every count is checked before it is used.
import { compressors } from 'hyparquet-compressors';
import type { CompressionCodec, PageHeader } from 'hyparquet/src/types.js';
import { decompressSnappy } from './snappy.js';

/** Where the values of a column stand in its nesting. */
export interface Levels {
  /** Definition level of a value that is there. */
  present: number;
  /** For a list: the definition level from which on it has an element; undefined: one value per row. */
  element: number | undefined;
}

/** Of a page: a value per row (undefined: none), or for a list all of its elements. */
export interface PageRows<V> {
  rows: (V | undefined)[] | ((V | undefined)[] | undefined)[];
  /** The first list goes on from the page before. */
  continues: boolean;
}

/**
 * The entries of a dictionary page.
 * @param body the page behind its header
 * @throws Error with the reason for damaged pages
 */
export function decodeDictionary(header: PageHeader, body: Uint8Array, codec: CompressionCodec): Uint8Array[] {
  const count = header.dictionary_page_header!.num_values;
  return plain(decompress(body, header.uncompressed_page_size, codec), 0, count);
}

/**
 * The rows of a data page.
 * @param body the page behind its header
 * @param dictionary for pages that need one: what stands for each entry
 * @throws Error with the reason for damaged pages and encodings that are not read
 */
export function decodePage<V>(header: PageHeader, body: Uint8Array, codec: CompressionCodec, levels: Levels, dictionary: readonly V[] | undefined): PageRows<V | Uint8Array> {
  const { data_page_header: v1, data_page_header_v2: v2, uncompressed_page_size: size } = header;
  const slots = (v1 ?? v2)!.num_values;
  let repetitions: Uint32Array | undefined;
  let definitions: Uint32Array | undefined;
  let values: Uint8Array;
  if (v1) {
    const page = decompress(body, size, codec);
    let at = 0;
    const level = (width: number): Uint32Array => {
      const length = uint32(page, at);
      const run = hybrid(within(page, at + 4, length), width, slots);
      at += 4 + length;
      return run;
    };
    if (levels.element !== undefined) repetitions = level(1);
    if (levels.present > 0) definitions = level(bitsOf(levels.present));
    values = page.subarray(at);
  } else {
    const { repetition_levels_byte_length: repetitionBytes, definition_levels_byte_length: definitionBytes, is_compressed: isCompressed } = v2!;
    if (levels.element !== undefined) repetitions = hybrid(within(body, 0, repetitionBytes), 1, slots);
    if (levels.present > 0) definitions = hybrid(within(body, repetitionBytes, definitionBytes), bitsOf(levels.present), slots);
    const rest = within(body, repetitionBytes + definitionBytes, body.length - repetitionBytes - definitionBytes);
    values = decompress(rest, size - repetitionBytes - definitionBytes, isCompressed === false ? 'UNCOMPRESSED' : codec);
  }
  let present = slots;
  if (definitions) for (const definition of definitions) if (definition !== levels.present) present--;
  const found = decodeValues((v1 ?? v2)!.encoding, values, present, dictionary);
  return assemble(slots, found, levels, definitions, repetitions);
}

function assemble<V>(slots: number, found: readonly V[], levels: Levels, definitions?: Uint32Array, repetitions?: Uint32Array): PageRows<V> {
  let next = 0;
  const value = (slot: number): V | undefined => (!definitions || definitions[slot] === levels.present ? found[next++]! : undefined);
  if (levels.element === undefined) return { rows: Array.from({ length: slots }, (_, slot) => value(slot)), continues: false };
  const rows: ((V | undefined)[] | undefined)[] = [];
  for (let slot = 0; slot < slots; slot++) {
    const definition = definitions![slot]!; // a list has definition levels: the repeated node counts
    if (repetitions![slot] === 0 || rows.length === 0) rows.push(definition >= levels.element - 1 ? [] : undefined);
    if (definition >= levels.element) (rows.at(-1) ?? (rows[rows.length - 1] = [])).push(value(slot));
  }
  return { rows, continues: slots > 0 && repetitions![0] !== 0 };
}

function decodeValues<V>(encoding: string, bytes: Uint8Array, count: number, dictionary: readonly V[] | undefined): (V | Uint8Array)[] {
  switch (encoding) {
    case 'PLAIN': return plain(bytes, 0, count);
    case 'PLAIN_DICTIONARY':
    case 'RLE_DICTIONARY': {
      if (!dictionary) throw new Error('a page needs a dictionary that is not there');
      if (count === 0) return [];
      const indices = hybrid(bytes.subarray(1), bytes[0] ?? 0, count);
      return Array.from(indices, (index) => dictionary[index] ?? fail(`a page names entry ${index} of a dictionary of ${dictionary.length}`));
    }
    default: throw new Error(`its encoding ${encoding} is not read; write the file with pyarrow's defaults`);
  }
}

/** Values with their lengths before them. */
function plain(bytes: Uint8Array, from: number, count: number): Uint8Array[] {
  const values: Uint8Array[] = [];
  for (let at = from; values.length < count;) {
    const length = uint32(bytes, at);
    values.push(within(bytes, at + 4, length));
    at += 4 + length;
  }
  return values;
}

/** `count` numbers of `width` bits in runs of one value and in packed groups of eight (Encodings.md, RLE = 3). */
function hybrid(bytes: Uint8Array, width: number, count: number): Uint32Array {
  if (width > 32) throw new Error(`numbers of ${width} bits`);
  const numbers = new Uint32Array(count);
  if (width === 0) return numbers;
  const byteWidth = (width + 7) >> 3;
  let at = 0;
  let filled = 0;
  while (filled < count) {
    let header = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? fail('its levels or indices end too early');
      header += (byte & 127) * 2 ** shift;
      if (byte < 128) break;
      if (shift > 28) fail('a run is too long');
    }
    const run = Math.floor(header / 2);
    if (header % 2 === 0) {
      let value = 0;
      for (let i = 0; i < byteWidth; i++) value += (bytes[at++] ?? fail('its levels or indices end too early')) * 2 ** (8 * i);
      const end = Math.min(count, filled + run);
      numbers.fill(value, filled, end);
      filled = end;
    } else {
      const group = within(bytes, at, Math.min(run * width, bytes.length - at)); // the last one may be cut short
      const end = Math.min(count, filled + run * 8, filled + Math.floor(group.length * 8 / width));
      if (end === filled) fail('its levels or indices end too early');
      for (let bit = 0; filled < end; filled++, bit += width) {
        let value = 0;
        for (let i = 0; i < width; i++) value += (group[(bit + i) >> 3]! >> ((bit + i) & 7) & 1) * 2 ** i;
        numbers[filled] = value;
      }
      at += run * width;
    }
  }
  return numbers;
}

function decompress(bytes: Uint8Array, size: number, codec: CompressionCodec): Uint8Array {
  if (codec === 'SNAPPY') return decompressSnappy(bytes, size); // pictures hardly shrink: copying them is faster than through WebAssembly
  const page = codec === 'UNCOMPRESSED' ? bytes : (compressors[codec] ?? fail(`its compression ${codec} is not read`))(bytes, size);
  return page.length === size ? page : fail(`a page has ${page.length} bytes instead of ${size}`);
}

function bitsOf(value: number): number {
  return 32 - Math.clz32(value);
}

function uint32(bytes: Uint8Array, at: number): number {
  const part = within(bytes, at, 4);
  return part[0]! + part[1]! * 2 ** 8 + part[2]! * 2 ** 16 + part[3]! * 2 ** 24;
}

function within(bytes: Uint8Array, from: number, length: number): Uint8Array {
  if (!(from >= 0 && length >= 0 && from + length <= bytes.length)) fail('a page ends too early');
  return bytes.subarray(from, from + length);
}

function fail(reason: string): never {
  throw new Error(reason);
}
