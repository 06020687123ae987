// Parquet files of pyarrow (test/golden/parquet), and what damage makes of them.
import { copyFile, mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parquetMetadata } from 'hyparquet';
import { expect, test } from 'vitest';
import { BoundedCache } from '../../lib/data/bounded-cache.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { openDataset } from '../../lib/data/open.js';
import { ParquetFile } from '../../lib/data/parquet-file.js';
import { ParquetReader } from '../../lib/data/parquet-reader.js';
import { decompressSnappy } from '../../lib/data/snappy.js';
import { IFError } from '../../lib/errors.js';
import { expectIFError } from '../support/expect-error.js';
import { plain, temporaryFolder } from '../support/pictures.js';
import { golden } from '../support/safetensors.js';

const file = (name: string): string => golden('parquet', name);
const open = (name: string | string[], more: { imageColumn?: string; captionColumn?: string } = {}): Promise<Dataset> =>
  openDataset({ type: 'parquet', path: name, flip: false, ...more }, { base: '/', cacheDir: null });
/** key → caption and first pixel. */
async function loadAll(dataset: Dataset, random = 0): Promise<Record<string, unknown[]>> {
  const samples = await Promise.all(Array.from({ length: dataset.length }, (_, i) => dataset.load(i, { width: 4, height: 4, random: () => random })));
  return Object.fromEntries(samples.filter((sample) => sample !== undefined).map((sample) => [sample.key, [sample.caption, ...sample.image.subarray(0, 3)]]));
}
async function captions(dataset: Dataset): Promise<string[]> {
  const all: string[] = [];
  for await (const caption of dataset.captions()) all.push(caption);
  return all;
}
const row = (i: number): unknown[] => [`number ${i}`, i, 2 * i, 3 * i];
const rows = (name: string, numbers: number[]): Record<string, unknown[]> => Object.fromEntries(numbers.map((n, i) => [`${name}:${i}`, row(n)]));
const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

test('the files are what they are meant to be', async () => {
  const groups = async (name: string) => parquetMetadata((await readFile(file(name))).buffer as ArrayBuffer).row_groups;
  const snappy = await groups('snappy.parquet');
  expect([snappy.length, snappy[0]!.columns[0]!.meta_data!.codec]).toEqual([3, 'SNAPPY']);
  expect((await groups('dictionary.parquet'))[0]!.columns[0]!.meta_data!.encodings).toContain('RLE_DICTIONARY');
  expect((await groups('lists.parquet'))[0]!.columns[0]).toMatchObject({ meta_data: { codec: 'ZSTD' }, offset_index_length: expect.any(Number) });
  expect((await groups('missing.parquet'))[0]!.columns[0]!.meta_data!.codec).toBe('GZIP');
});

test('a struct of bytes and path, several row groups and pages, in any order', async () => {
  const dataset = await open(file('snappy.parquet'));
  expect([dataset.length, dataset.description]).toEqual([30, `Parquet ${file('snappy.parquet')}, 30 pictures`]);
  expect(await loadAll(dataset)).toEqual(rows('snappy.parquet', upTo(30)));
  for (const i of [29, 0, 12, 11, 23, 24]) expect((await dataset.load(i, { width: 4, height: 4, random: () => 0 }))!.caption).toBe(`number ${i}`);
  expect(await captions(dataset)).toEqual(upTo(30).map((i) => `number ${i}`));
  expect(dataset.skipped).toEqual([]);
});

test('dictionaries, plain bytes, required columns of other names', async () => {
  const dataset = await open(file('dictionary.parquet'), { imageColumn: 'picture', captionColumn: 'caption' });
  expect(await loadAll(dataset)).toEqual(rows('dictionary.parquet', upTo(20).map((i) => i % 3)));
});

test('lists of captions, second page version, page index', async () => {
  const dataset = await open(file('lists.parquet'), { captionColumn: 'captions' });
  const whole = rows('lists.parquet', upTo(10));
  delete whole['lists.parquet:4'];
  delete whole['lists.parquet:5'];
  expect(await loadAll(dataset)).toEqual(whole);
  expect((await loadAll(dataset, 0.99))['lists.parquet:7']).toEqual(['a picture of 7', 7, 14, 21]);
  expect(dataset.skipped).toEqual([{ key: 'lists.parquet:4', reason: 'it has no caption' }, { key: 'lists.parquet:5', reason: 'it has no caption' }]);
  expect((await captions(dataset)).slice(0, 5)).toEqual(['number 0', 'number 1', 'a picture of 1', 'number 2', 'number 3']);
});

test('pictures that are files, missing or damaged; missing captions', async () => {
  const folder = await temporaryFolder();
  await copyFile(file('missing.parquet'), path.join(folder, 'missing.parquet'));
  await mkdir(path.join(folder, 'pictures'));
  await writeFile(path.join(folder, 'pictures', '1.png'), await plain(6, 4, [1, 2, 3]).png().toBuffer());
  const dataset = await open(path.join(folder, 'missing.parquet'));
  expect(await loadAll(dataset)).toEqual(rows('missing.parquet', upTo(2)));
  expect(Object.fromEntries(dataset.skipped.map(({ key, reason }) => [key, reason]))).toEqual({
    'missing.parquet:2': `its path must be below the file's folder, without "..", got "../2.png"`,
    'missing.parquet:3': 'it has no picture', 'missing.parquet:4': 'it has no picture', 'missing.parquet:5': 'its file is empty',
    'missing.parquet:6': 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture', 'missing.parquet:7': 'it has no caption',
  });
});

test('several files', async () => {
  const folder = await temporaryFolder();
  for (const i of [0, 1]) await copyFile(file('snappy.parquet'), path.join(folder, `train-0000${i}-of-00002.parquet`));
  for (const name of [folder, path.join(folder, 'train-{00000..00001}-of-00002.parquet')]) {
    const dataset = await open(name);
    expect(await loadAll(dataset)).toEqual({ ...rows('train-00000-of-00002.parquet', upTo(30)), ...rows('train-00001-of-00002.parquet', upTo(30)) });
    expect(dataset.description).toMatch(/train-00000-of-00002\.parquet and 1 more, 60 pictures$/);
  }
  const mixed = await open([file('dictionary.parquet'), path.join(folder, 'train-00000-of-00002.parquet')], { imageColumn: 'image' }).catch((error: unknown) => error);
  expect((mixed as IFError).message).toMatch(/dictionary\.parquet: no column "image"/);
});

test('columns that are missing or of another type', async () => {
  const types = file('types.parquet');
  await expectIFError('INVALID_ARGUMENT', () => open(types, { imageColumn: 'picture' }), /types\.parquet: no column "picture"; it has "image", "number", "numbers", "binary", "text"; name the column of the pictures with imageColumn/);
  await expectIFError('INVALID_ARGUMENT', () => open(types, { imageColumn: 'binary', captionColumn: 'txt' }), /no column "txt" \(did you mean "text"\?\)/);
  await expectIFError('INVALID_ARGUMENT', () => open(types), /the column "image" holds text, expected pictures: a struct \{bytes, path\} or bytes/);
  await expectIFError('INVALID_ARGUMENT', () => open(types, { imageColumn: 'numbers' }), /the column "numbers" holds lists of INT64/);
  await expectIFError('INVALID_ARGUMENT', () => open(types, { imageColumn: 'binary', captionColumn: 'number' }), /the column "number" holds INT64, expected captions: text or lists of texts/);
  await expectIFError('INVALID_ARGUMENT', () => open(types, { imageColumn: 'binary', captionColumn: 'numbers' }), /holds lists of INT64, expected captions/);
  await expectIFError('INVALID_ARGUMENT', () => open(file('snappy.parquet'), { captionColumn: 'image' }), /the column "image" holds a struct \{bytes, path\}, expected captions/);
  expect(await loadAll(await open(types, { imageColumn: 'binary' }))).toEqual(rows('types.parquet', [0]));
});

test('files that are none', async () => {
  const folder = await temporaryFolder();
  const write = async (content: Uint8Array): Promise<string> => {
    await writeFile(path.join(folder, 'a.parquet'), content);
    return path.join(folder, 'a.parquet');
  };
  const whole = await readFile(file('snappy.parquet'));
  const damaged = (change: (bytes: Buffer) => void): Buffer => { const bytes = Buffer.from(whole); change(bytes); return bytes; };
  await expectIFError('NOT_FOUND', () => open(path.join(folder, 'none.parquet')), /does not exist/);
  await expectIFError('NOT_FOUND', () => open(file('empty.parquet')), /no usable picture: 1 left out, the first: empty\.parquet: it has no rows/);
  await expectIFError('FILE_FORMAT', async () => open(await write(Buffer.alloc(0))), /expected a Parquet file: it is too short/);
  await expectIFError('FILE_FORMAT', async () => open(await write(whole.subarray(0, 1000))), /it does not end with PAR1; it is cut off/);
  await expectIFError('FILE_FORMAT', async () => open(await write(damaged((b) => b.writeUInt32LE(2 ** 32 - 1, b.length - 8)))), /its footer claims 4294967295 bytes/);
  await expectIFError('FILE_FORMAT', async () => open(await write(damaged((b) => b.fill(0xff, b.length - 8 - b.readUInt32LE(b.length - 8), b.length - 8)))), /its footer is damaged/);
  await expectIFError('UNSUPPORTED', async () => open(await write(damaged((b) => b.write('PARE', b.length - 4, 'latin1')))), /it is encrypted/);
});

test('a file that shrinks after it was opened', async () => {
  const name = path.join(await temporaryFolder(), 'a.parquet');
  await copyFile(file('snappy.parquet'), name);
  const dataset = await open(name);
  await truncate(name, 100);
  expect(await dataset.load(20, { width: 4, height: 4, random: () => 0 })).toBeUndefined();
  expect(dataset.skipped).toEqual([{ key: 'a.parquet:20', reason: expect.stringMatching(/it cannot be read: .*cut off/) }]);
});

test('damaged bytes anywhere: another picture, a skipped one, or a refused file, never an exception of another kind', async () => {
  const folder = await temporaryFolder();
  const name = path.join(folder, 'a.parquet');
  let [refused, skipped] = [0, 0];
  for (const source of ['snappy.parquet', 'dictionary.parquet', 'lists.parquet', 'large_plain.parquet', 'large_dictionary.parquet']) {
    const whole = await readFile(file(source));
    const columns = { 'snappy.parquet': {}, 'dictionary.parquet': { imageColumn: 'picture', captionColumn: 'caption' }, 'lists.parquet': { captionColumn: 'captions' } }[source] ?? {};
    let seed = 1;
    const below = (n: number): number => (seed = (seed * 48271) % 2147483647) % n;
    for (let i = 0; i < 60; i++) {
      const bytes = Buffer.from(whole);
      for (let k = 0; k < 3; k++) bytes[below(bytes.length - 8)] = below(256);
      await writeFile(name, bytes);
      try {
        const dataset = await open(name, columns);
        await loadAll(dataset);
        await captions(dataset);
        skipped += dataset.skipped.length;
      } catch (error) {
        expect(error).toBeInstanceOf(IFError);
        refused++;
      }
    }
  }
  expect(refused).toBeGreaterThan(20);
  expect(skipped).toBeGreaterThan(100);
});

for (const name of ['large_plain.parquet', 'large_dictionary.parquet']) {
  test(`${name}: large pages are unpacked once into a file of the run, that is gone afterwards`, async () => {
    const numbers = [0, 1, 2, 3, undefined, 4, 5, 6, 7, 0, 1];
    const want = Object.fromEntries(numbers.flatMap((n, i) => (n === undefined ? [] : [[`${name}:${i}`, row(n)]])));
    const cacheDir = await temporaryFolder();
    const context = { base: '/', cacheDir };
    const dataset = await openDataset({ type: 'parquet', path: file(name), flip: false }, context);
    expect(await loadAll(dataset)).toEqual(want);
    expect(await loadAll(dataset)).toEqual(want);
    expect(dataset.skipped).toEqual([{ key: `${name}:4`, reason: 'it has no picture' }]);
    await dataset.close();
    expect(await readdir(path.join(cacheDir, 'spool'))).toEqual([]);
    // without a folder, or one that cannot be written: slower, the same
    expect(await loadAll(await open(file(name)))).toEqual(want);
    const warnings: string[] = [];
    await writeFile(path.join(cacheDir, 'file'), '');
    const bare = await openDataset({ type: 'parquet', path: file(name), flip: false }, { base: '/', cacheDir: path.join(cacheDir, 'file'), onWarning: (message) => warnings.push(message) });
    expect(await loadAll(bare)).toEqual(want);
    expect(warnings).toEqual([expect.stringMatching(/^writing .*; large pages of Parquet files are unpacked each time instead/)]);
    await bare.close();
  });
}

test('a large page takes part of the file only once', async () => {
  const folder = await temporaryFolder();
  const name = path.join(folder, 'a.parquet');
  await copyFile(file('large_plain.parquet'), name);
  const dataset = await openDataset({ type: 'parquet', path: name, flip: false }, { base: '/', cacheDir: folder });
  const load = async (i: number) => (await dataset.load(i, { width: 4, height: 4, random: () => 0 }))?.image[1];
  expect(await load(0)).toBe(0);
  await writeFile(name, Buffer.alloc((await readFile(name)).length)); // what is read from here on comes from the spool
  expect([await load(3), await load(8), await load(10)]).toEqual([6, 14, 2]);
  expect(dataset.skipped).toEqual([]);
  await dataset.close();
});

test('a list that goes on in the next page', async () => {
  // two pages of an optional list of required texts: [a, b | c], null, [], [d]; levels as runs of one value
  const runs = (...levels: number[]): Buffer => {
    const bytes = Buffer.from(levels.flatMap((level) => [2, level]));
    return Buffer.concat([Buffer.of(bytes.length, 0, 0, 0), bytes]);
  };
  const texts = (...values: string[]): Buffer => Buffer.concat(values.flatMap((value) => [Buffer.of(value.length, 0, 0, 0), Buffer.from(value)]));
  const bodies = [Buffer.concat([runs(0, 1), runs(2, 2), texts('a', 'b')]), Buffer.concat([runs(1, 0, 0, 0), runs(2, 0, 1, 2), texts('c', 'd')])];
  const name = path.join(await temporaryFolder(), 'pages');
  await writeFile(name, Buffer.concat(bodies));
  const node = (element: object, ...children: object[]): object => ({ element, children });
  const page = (i: number, values: number): object => ({
    offset: i * bodies[0]!.length, length: bodies[i]!.length, values, firstRow: 0,
    header: { type: 'DATA_PAGE', uncompressed_page_size: bodies[i]!.length, data_page_header: { num_values: values, encoding: 'PLAIN' } },
  });
  const parquet = {
    path: name, groups: [{ firstRow: 0, rows: 4 }], locate: (rowInGroup: number) => ({ group: 0, rowInGroup }), chunk: () => ({ codec: 'UNCOMPRESSED' }),
    pages: async () => [page(0, 2), page(1, 4)],
    schema: node({ name: 'root' }, node({ name: 't', repetition_type: 'OPTIONAL' }, node({ name: 'list', repetition_type: 'REPEATED' }, node({ name: 'element', repetition_type: 'REQUIRED' })))),
  } as unknown as ParquetFile;
  const reader = new ParquetReader({ base: '/', cacheDir: null });
  const lists = await Promise.all([0, 1, 2, 3].map((i) => reader.value(parquet, ['t', 'list', 'element'], i)));
  expect(lists.map((list) => (list as (Uint8Array | undefined)[] | undefined)?.map((text) => Buffer.from(text!).toString()))).toEqual([['a', 'b', 'c'], undefined, [], ['d']]);
});

test('Snappy: blocks of the C++ library, and damaged ones', async () => {
  const blocks = JSON.parse(await readFile(file('snappy.json'), 'utf8')) as { name: string; data: string; block: string }[];
  for (const { name, data, block } of blocks) {
    expect([name, Buffer.from(decompressSnappy(Buffer.from(block, 'hex'), data.length / 2)).toString('hex')]).toEqual([name, data]);
    for (let cut = 0; cut < block.length / 2; cut += 1 + Math.floor(cut / 8)) expect(() => decompressSnappy(Buffer.from(block.slice(0, 2 * cut), 'hex'), data.length / 2)).toThrow(/^damaged Snappy data: /);
  }
  const damaged: [number[], RegExp][] = [
    [[], /it has no length/], [[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], /it has no length/], [[5, 0], /claims 5 bytes instead of 4/], [[4, 4 << 2, 1, 2, 3, 4, 5], /a literal is too long/],
    [[4, 0, 7, 2], /ends too early/], [[4, 0, 7, 10, 2, 0], /a copy reaches outside/], [[4, 0, 7, 10, 0, 0], /a copy reaches outside/], [[4, 0, 7, 1, 1], /a copy reaches outside/],
    [[4, 0, 7], /it gives 1 bytes instead of 4/], [[4, 63 << 2, 255, 255, 255, 255], /a literal is too long/], [[4, 0, 7, 3, 1, 0, 0, 0], /it gives 2 bytes/],
  ];
  for (const [bytes, reason] of damaged) expect(() => decompressSnappy(Uint8Array.from(bytes), 4)).toThrow(reason);
  expect([...decompressSnappy(Uint8Array.from([4, 0, 7, 11, 1, 0, 0, 0]), 4)]).toEqual([7, 7, 7, 7]); // four-byte offset
});

test('rows are found in their groups', async () => {
  const parquet = await ParquetFile.open(file('snappy.parquet'));
  expect(parquet.groups).toEqual([{ firstRow: 0, rows: 12 }, { firstRow: 12, rows: 12 }, { firstRow: 24, rows: 6 }]);
  expect([0, 11, 12, 23, 24, 29].map((i) => parquet.locate(i))).toEqual([[0, 0], [0, 11], [1, 0], [1, 11], [2, 0], [2, 5]].map(([group, rowInGroup]) => ({ group, rowInGroup })));
});

test('a bounded cache: the least recently used goes, errors are not kept, those that ask together share', async () => {
  const cache = new BoundedCache<string>(10);
  const made: string[] = [];
  const get = (key: string, weight: number): Promise<string> => cache.get(key, weight, async () => { made.push(key); return key; });
  expect(await Promise.all([get('a', 4), get('a', 4), get('b', 4)])).toEqual(['a', 'a', 'b']);
  await get('a', 4);
  await get('c', 4); // b goes
  await get('a', 4);
  await get('b', 4); // c goes
  await get('large', 100); // stays alone
  await get('large', 100);
  await get('a', 4);
  expect(made).toEqual(['a', 'b', 'c', 'b', 'large', 'a']);
  await expect(cache.get('x', 1, async () => { throw new Error('no'); })).rejects.toThrow('no');
  expect(await get('x', 1)).toBe('x');
});
