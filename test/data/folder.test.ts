// Hugging Face's imagefolder and what people make of it.
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseCsv } from '../../lib/data/csv.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { openDataset, type DataConfig } from '../../lib/data/open.js';
import { containedPath } from '../../lib/data/walk.js';
import { expectIFError } from '../support/expect-error.js';
import { plain, temporaryFolder } from '../support/pictures.js';

type Files = Record<string, string | Uint8Array | readonly [number, number, number]>;
/** Writes text, bytes, or a plain picture of that colour under each name. */
async function folderOf(files: Files): Promise<string> {
  const folder = await temporaryFolder();
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    const isColour = typeof content !== 'string' && content.length === 3;
    await writeFile(file, isColour ? await plain(6, 4, content as [number, number, number]).png().toBuffer() : content as string | Uint8Array);
  }
  return folder;
}
const lines = (...rows: unknown[]): string => rows.map((row) => JSON.stringify(row)).join('\n');
const open = (folder: string, more: Partial<Extract<DataConfig, { type: 'folder' }>> = {}): Promise<Dataset> =>
  openDataset({ type: 'folder', path: folder, flip: false, ...more }, { base: '/', cacheDir: null });
const at = (value: number) => (): number => value;

/** key → caption and colour, of every picture that loads. */
async function loadAll(dataset: Dataset, random = 0): Promise<Record<string, [string, ...number[]]>> {
  const all: Record<string, [string, ...number[]]> = {};
  for (let i = 0; i < dataset.length; i++) {
    const sample = await dataset.load(i, { width: 4, height: 4, random: at(random) });
    if (sample) all[sample.key] = [sample.caption, ...sample.image.subarray(0, 3)];
  }
  return all;
}
async function captions(dataset: Dataset): Promise<string[]> {
  const all: string[] = [];
  for await (const caption of dataset.captions()) all.push(caption);
  return all;
}
const RED = [255, 0, 0] as const;
const BLUE = [0, 0, 255] as const;

test('metadata.jsonl: captions, lists of captions, folders below, other columns', async () => {
  const folder = await folderOf({
    'metadata.jsonl': `\ufeff${lines({ file_name: 'a.png', text: ' a red square ', license: 'x' }, { file_name: 'deep/b.png', text: ['blue', '', 'a blue square'] })}\n\n`,
    'a.png': RED, 'deep/b.png': BLUE, 'notes.md': 'not a picture', '.hidden.png': RED,
  });
  const dataset = await open(folder);
  expect(dataset.length).toBe(2);
  expect(dataset.skipped).toEqual([]);
  expect(dataset.description).toBe(`folder ${folder}, 2 pictures`);
  expect(await loadAll(dataset)).toEqual({ 'a.png': ['a red square', ...RED], 'deep/b.png': ['blue', ...BLUE] });
  expect((await loadAll(dataset, 0.99))['deep/b.png']![0]).toBe('a blue square');
  expect(await captions(dataset)).toEqual(['a red square', 'blue', 'a blue square']);
  const sample = (await dataset.load(0, { width: 5, height: 5, random: at(0) }))!;
  expect([sample.width, sample.height, sample.image.length, sample.weight]).toEqual([5, 5, 75, undefined]);
  await dataset.close();
});

test('metadata.csv with quotes, commas, line breaks and CRLF; another caption column', async () => {
  const folder = await folderOf({ 'metadata.csv': 'file_name,caption,n\r\na.png,"red, ""very"" red\nindeed",1\r\nb.png,blue,2\r\n', 'a.png': RED, 'b.png': BLUE });
  expect(await loadAll(await open(folder, { captionColumn: 'caption' }))).toEqual({ 'a.png': ['red, "very" red\nindeed', ...RED], 'b.png': ['blue', ...BLUE] });
});

test('a metadata file in each folder: names are relative to it', async () => {
  const folder = await folderOf({
    'x/metadata.jsonl': lines({ file_name: 'a.png', text: 'red' }), 'x/a.png': RED,
    'y/metadata.csv': 'file_name,text\nin/a.png,blue\n', 'y/in/a.png': BLUE,
  });
  expect(await loadAll(await open(folder))).toEqual({ 'x/a.png': ['red', ...RED], 'y/in/a.png': ['blue', ...BLUE] });
});

test('text files beside the pictures', async () => {
  const folder = await folderOf({ 'a.png': RED, 'a.txt': ' red \n', 'b.JPG': BLUE, 'b.txt': 'blue', 'c.png': RED, 'd.png': RED, 'd.txt': '  ' });
  const dataset = await open(folder);
  expect(await loadAll(dataset)).toEqual({ 'a.png': ['red', ...RED], 'b.JPG': ['blue', ...BLUE] });
  expect(dataset.skipped).toEqual([
    { key: 'c.png', reason: 'it has no caption: no metadata and no c.txt' }, { key: 'd.png', reason: 'its caption file is empty' },
  ]);
  expect(await captions(dataset)).toEqual(['red', 'blue']);
});

test('one caption for all, as DreamBooth has it', async () => {
  const folder = await folderOf({ 'a.png': RED, 'b.png': BLUE, 'metadata.jsonl': 'not read' });
  const dataset = await open(folder, { caption: 'a photo of sks dog' });
  expect(await loadAll(dataset)).toEqual({ 'a.png': ['a photo of sks dog', ...RED], 'b.png': ['a photo of sks dog', ...BLUE] });
  expect(await captions(dataset)).toEqual(['a photo of sks dog']);
  await expectIFError('INVALID_ARGUMENT', () => open(folder, { caption: 'x', captionColumn: 'y' }), /either caption or captionColumn/);
  await expectIFError('INVALID_ARGUMENT', () => open(folder, { caption: ' ' }), /caption must not be blank/);
});

test('relative paths begin at the base', async () => {
  const folder = await folderOf({ 'in/a.png': RED });
  const dataset = await openDataset({ type: 'folder', path: 'in', caption: 'red' }, { base: folder, cacheDir: null });
  expect(await loadAll(dataset)).toEqual({ 'a.png': ['red', ...RED] });
});

test('what cannot be read is skipped, named once, and the rest goes on', async () => {
  const folder = await folderOf({
    'metadata.jsonl': lines(...['a', 'empty', 'text', 'gone', 'number', 'null', 'list'].map((name) => ({ file_name: `${name}.png`, text: { number: 7, null: null, list: ['a', 1] }[name] ?? (name === 'null' ? null : 'x') })),
      { file_name: 'a.png', text: 'again' }, { text: 'no name' }, { file_name: 3, text: 'x' }),
    'a.png': RED, 'empty.png': '', 'text.png': 'hello, no picture', 'number.png': RED, 'null.png': RED, 'list.png': RED, 'unnamed.png': RED,
  });
  const dataset = await open(folder);
  expect(dataset.length).toBe(3);
  expect(await loadAll(dataset)).toEqual({ 'a.png': ['x', ...RED] });
  await loadAll(dataset);
  expect(Object.fromEntries(dataset.skipped.map(({ key, reason }) => [key, reason]))).toEqual({
    'gone.png': 'the file does not exist',
    'number.png': 'its caption must be a text or a list of texts, got number',
    'null.png': 'it has no caption',
    'list.png': 'its caption must be a text or a list of texts, got number',
    'metadata.jsonl:8': 'a.png was named before; several captions go into one list',
    'metadata.jsonl:9': 'file_name must be a path below the folder, without "..", got undefined',
    'metadata.jsonl:10': 'file_name must be a path below the folder, without "..", got 3',
    'unnamed.png': 'no metadata file names it',
    'empty.png': 'its file is empty',
    'text.png': 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture',
  });
  expect(dataset.skipped.length).toBe(10);
});

test('no way out of the folder', async () => {
  for (const name of ['../a.png', 'x/../../a.png', '/etc/passwd', '..\\a.png', 'C:\\a.png', 'c:a.png', '\\\\host\\a.png', 'http://host/a.png', 'file:///a.png', 'a\0.png', '..', '.', '']) expect([name, containedPath(name)]).toEqual([name, undefined]);
  for (const [name, inside] of [['a.png', 'a.png'], ['./x//a.png', 'x/a.png'], ['x/..a.png', 'x/..a.png'], ['12:30.png', '12:30.png'], ['é 猫.png', 'é 猫.png']] as const) expect(containedPath(name)).toBe(inside);
  const folder = await folderOf({ 'secret.png': RED, 'data/metadata.jsonl': lines({ file_name: '../secret.png', text: 'x' }, { file_name: 'a.png', text: 'y' }), 'data/a.png': RED });
  const dataset = await open(path.join(folder, 'data'));
  expect(Object.keys(await loadAll(dataset))).toEqual(['a.png']);
  expect(dataset.skipped).toEqual([{ key: 'metadata.jsonl:1', reason: 'file_name must be a path below the folder, without "..", got "../secret.png"' }]);
});

test('links: to pictures and folders they are followed, circles and dead ends are named', async () => {
  const folder = await folderOf({ 'store/blob': RED, 'data/a.png': BLUE, 'data/in/b.png': BLUE });
  const data = path.join(folder, 'data');
  await symlink('../store/blob', path.join(data, 'linked.png'));
  await symlink('..', path.join(data, 'in', 'up'));
  await symlink('loop2', path.join(data, 'loop1'));
  await symlink('loop1', path.join(data, 'loop2'));
  await symlink('nowhere', path.join(data, 'dead.png'));
  const dataset = await open(data, { caption: 'x' });
  expect(Object.keys(await loadAll(dataset))).toEqual(['a.png', 'in/b.png', 'linked.png']);
  expect(Object.fromEntries(dataset.skipped.map(({ key, reason }) => [key, reason]))).toEqual({
    'in/up': 'it leads to a folder that is read already',
    loop1: 'it is a link that leads in a circle', loop2: 'it is a link that leads in a circle',
    'dead.png': 'it is a link to nothing',
  });
});

describe('refused when it is opened', () => {
  const cases: Record<string, { files: Files; more?: Parameters<typeof open>[1]; code?: 'NOT_FOUND' | 'INVALID_ARGUMENT' | 'FILE_FORMAT'; parts: RegExp[] }> = {
    'an empty folder': { files: {}, code: 'NOT_FOUND', parts: [/no usable picture; expected .jpg, .png/] },
    'no picture among the files': { files: { 'a.md': 'x' }, code: 'NOT_FOUND', parts: [/no usable picture/] },
    'no captions at all': { files: { 'a.png': RED, 'b.png': RED }, code: 'NOT_FOUND', parts: [/2 pictures, but no captions; write metadata.jsonl with lines like \{"file_name"/] },
    'no metadata for the column': { files: { 'a.png': RED, 'a.txt': 'x' }, more: { captionColumn: 'title' }, code: 'NOT_FOUND', parts: [/no metadata with a column "title"/] },
    'no caption column': { files: { 'a.png': RED, 'metadata.jsonl': lines({ file_name: 'a.png', texts: 'x', other: 1 }) }, code: 'INVALID_ARGUMENT', parts: [/metadata\.jsonl: no column "text" \(did you mean "texts"\?\); it has "file_name", "texts", "other"; name the column of the captions with captionColumn/] },
    'no such column': { files: { 'a.png': RED, 'metadata.csv': 'file_name,text\na.png,x\n' }, more: { captionColumn: 'caption' }, code: 'INVALID_ARGUMENT', parts: [/metadata\.csv: no column "caption"; it has "file_name", "text"/] },
    'no file_name': { files: { 'a.png': RED, 'metadata.jsonl': lines({ file: 'a.png', text: 'x' }) }, code: 'INVALID_ARGUMENT', parts: [/no column "file_name"; it has "file", "text"; expected the path of each picture, relative to this file/] },
    'both kinds of metadata': { files: { 'a.png': RED, 'metadata.jsonl': '', 'metadata.csv': '' }, code: 'INVALID_ARGUMENT', parts: [/both metadata.csv and metadata.jsonl/] },
    'empty metadata': { files: { 'a.png': RED, 'metadata.jsonl': '\n' }, code: 'NOT_FOUND', parts: [/no usable picture: 1 left out, the first: a.png: no metadata file names it/] },
    'nothing but bad rows': { files: { 'metadata.jsonl': lines({ file_name: 'a.png', text: 'x' }) }, code: 'NOT_FOUND', parts: [/no usable picture: 1 left out, the first: a.png: the file does not exist/] },
    'broken JSON': { files: { 'metadata.jsonl': `${lines({ file_name: 'a.png', text: 'x' })}\n{"file_name": ` }, parts: [/metadata\.jsonl, line 2: expected one JSON object per line/] },
    'a JSON list': { files: { 'metadata.jsonl': '[1]' }, parts: [/line 1: expected a JSON object/] },
    'another encoding': { files: { 'metadata.jsonl': Uint8Array.of(0x7b, 0x22, 0xff, 0xfe, 0x22) }, parts: [/it is not UTF-8 text/] },
    'an open quote': { files: { 'metadata.csv': 'file_name,text\na.png,"x\n' }, parts: [/line 2: a quote is opened and never closed/] },
    'a short row': { files: { 'metadata.csv': 'file_name,text\na.png\n' }, parts: [/line 2: expected 2 fields as in the header, got 1/] },
    'a column twice': { files: { 'metadata.csv': 'file_name,text,text\n' }, parts: [/the column "text" is there twice/] },
  };
  for (const [name, { files, more, code = 'FILE_FORMAT', parts }] of Object.entries(cases)) {
    test(name, async () => {
      const folder = await folderOf(files);
      await expectIFError(code, () => open(folder, more), ...parts);
    });
  }
  test('a folder that is not there, and a file', async () => {
    const folder = await folderOf({ 'a.png': RED });
    await expectIFError('NOT_FOUND', () => open(path.join(folder, 'none')), /data folder .*none: it does not exist; check the path/);
    await expectIFError('INVALID_ARGUMENT', () => open(path.join(folder, 'a.png')), /it is a file, expected a folder/);
    await expectIFError('INVALID_ARGUMENT', () => openDataset({ type: 'zip' } as never, { base: '/', cacheDir: null }), /data\.type: expected .*got "zip"/);
  });
});

test('shapes of all pictures, from their headers; what cannot be read is named', async () => {
  const png = (width: number, height: number): Promise<Buffer> => plain(width, height, RED).png().toBuffer();
  const folder = await folderOf({ 'a.png': await png(8, 4), 'b.png': await png(3, 6), 'c.png': 'broken', 'd.png': await png(5, 5) });
  const dataset = await open(folder, { caption: 'x' });
  const progress: number[] = [];
  expect([...await dataset.aspectRatios!({ onProgress: (done, total) => progress.push(done / total) })]).toEqual([2, 0.5, NaN, 1]);
  expect(progress).toEqual([0.25, 0.5, 0.75, 1]);
  expect(dataset.skipped).toEqual([{ key: 'c.png', reason: 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture' }]);
  const wide = (await dataset.load(0, { width: 12, height: 6, random: at(0) }))!;
  expect([wide.width, wide.height, wide.image.length]).toEqual([12, 6, 216]);
  await expectIFError('CANCELLED', () => dataset.aspectRatios!({ signal: AbortSignal.abort() }));
});

test('indices and sizes are checked', async () => {
  const dataset = await open(await folderOf({ 'a.png': RED }), { caption: 'x' });
  for (const index of [-1, 1, 0.5, NaN]) await expectIFError('INVALID_ARGUMENT', () => dataset.load(index, { width: 4, height: 4, random: at(0) }), /index must be a whole number from 0 to 0/);
  for (const size of [0, 4097, 1.5, NaN]) await expectIFError('INVALID_ARGUMENT', () => dataset.load(0, { width: size, height: size, random: at(0) }), /width and height must be 1 to 4096 pixels/);
  await expectIFError('INVALID_ARGUMENT', () => dataset.load(0, { width: 4, height: 0, random: at(0) }), /got 4 × 0/);
  await expectIFError('CANCELLED', () => dataset.load(0, { width: 4, height: 4, random: at(0), signal: AbortSignal.abort() }));
});

test('the same numbers give the same sample, in any order', async () => {
  const folder = await folderOf({ 'metadata.jsonl': lines(...Array.from({ length: 12 }, (_, i) => ({ file_name: `${i}.png`, text: [`a${i}`, `b${i}`] }))), ...Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`${i}.png`, [i, 2 * i, 3 * i] as const])) });
  const dataset = await open(folder, { flip: true });
  const options = (i: number) => { let n = i; return { width: 4, height: 4, random: () => (n = (n * 16807 + 11) % 2147483647) / 2147483647 }; };
  const once = await Promise.all(Array.from({ length: 12 }, (_, i) => dataset.load(i, options(i))));
  const again = await Promise.all(Array.from({ length: 12 }, (_, i) => dataset.load(11 - i, options(11 - i))));
  expect(again.reverse()).toEqual(once);
});

test('comma-separated values', () => {
  const fields = (text: string): string[][] => parseCsv(text, 'f').map((record) => record.fields);
  expect(fields('')).toEqual([]);
  expect(fields('a,b\n\n1,\r\n"",""\n')).toEqual([['a', 'b'], ['1', ''], ['', '']]);
  expect(fields('a,"b\r\n,""c"""')).toEqual([['a', 'b\r\n,"c"']]);
  expect(fields(',')).toEqual([['', '']]);
  expect(fields('a\rb')).toEqual([['a'], ['b']]);
  expect(parseCsv('a\n"x\ny"\nz', 'f').map((record) => record.line)).toEqual([1, 2, 4]);
  for (const text of ['"a"b', 'a"b', '"a', '"a""']) expect(() => parseCsv(text, 'f')).toThrow(/^f, line 1: /);
});
