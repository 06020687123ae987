import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readPngText, toBytes, toImages, writePng } from '../lib/image.js';
import type { Images } from '../lib/tensor.js';
import { expectIFError } from './support/expect-error.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-image-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const at = (name: string) => path.join(dir, name);

const picture = (data: Float32Array | number[], height: number, width: number): Images => ({ data: Float32Array.from(data), shape: [1, 3, height, width] });
/** Covers [-1.2, 1.2]. */
const ramp = picture(Float32Array.from({ length: 105 }, (_, i) => -1.2 + (2.4 * i) / 104), 5, 7);

test('toBytes clamps, rounds halves to even, and puts channels last', () => {
  // x = 0 is 127.5 exactly, which rounds to 128
  expect([...toBytes(picture([-1, 0, 1], 1, 1))]).toEqual([0, 128, 255]);
  expect([...toBytes(picture([-9, 9, -Infinity, Infinity, 1, -1], 1, 2))]).toEqual([0, 0, 255, 255, 255, 0]);
  const bytes = toBytes(ramp);
  for (const i of [0, 17, 34]) for (const c of [0, 1, 2]) {
    expect(Math.abs(bytes[3 * i + c]! - Math.min(Math.max((ramp.data[35 * c + i]! / 2 + 0.5) * 255, 0), 255))).toBeLessThanOrEqual(0.5001);
  }
});

test('every byte comes back from the value that stands for it', () => {
  const values = Float32Array.from({ length: 256 * 3 }, (_, i) => ((i % 256) / 255 - 0.5) * 2);
  const bytes = toBytes(picture(values, 16, 16));
  for (let i = 0; i < 256; i++) expect([...bytes.subarray(3 * i, 3 * i + 3)]).toEqual([i, i, i]);
});

test('writePng: another decoder reads the same bytes and the text', async () => {
  const metadata = { prompt: 'a red apple, 50 % off — “quoted” 漢字 🍎', 'negative prompt': 'blurry\nlow quality é', seed: '42', empty: '' };
  await writePng(at('x.png'), ramp, metadata);
  const { data, info } = await sharp(at('x.png')).raw().toBuffer({ resolveWithObject: true });
  expect(info).toMatchObject({ width: 7, height: 5, channels: 3 });
  expect(Uint8Array.from(data)).toEqual(toBytes(ramp));
  expect(await readPngText(at('x.png'))).toEqual(metadata);
  const { comments } = await sharp(at('x.png')).metadata(); // libvips reads the chunks too
  expect(comments).toContainEqual({ keyword: 'seed', text: '42' });
  const bytes = readFileSync(at('x.png'), 'latin1');
  expect(bytes.indexOf('IHDR')).toBeLessThan(bytes.indexOf('tEXtseed'));
  expect(bytes).toContain('iTXtprompt');
  expect(readdirSync(dir)).toEqual(['x.png']);
});

test('writePng replaces a file, and leaves nothing behind when it fails', async () => {
  writeFileSync(at('x.png'), 'old');
  await writePng(at('x.png'), ramp);
  expect(await readPngText(at('x.png'))).toEqual({});
  await expectIFError('IO', () => writePng(at('none/x.png'), ramp), 'none/x.png', 'ENOENT', 'create the folder');
  await expectIFError('IO', () => writePng(dir, ramp), dir);
  await expectIFError('IO', () => writePng(at('x.png/y.png'), ramp), 'ENOTDIR');
  expect(readdirSync(dir)).toEqual(['x.png']);
  expect(readdirSync(path.dirname(dir)).filter((name) => name.includes(path.basename(dir)) && name.endsWith('.tmp'))).toEqual([]);
});

test('refuses what is no picture', async () => {
  await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), { data: ramp.data, shape: [1, 3, 5, 8] }), '(1, 3, 5, 8)', '105 values');
  await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), { data: ramp.data, shape: [3, 1, 5, 7] }), '(3, 1, 5, 7)');
  await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), picture([], 0, 8)), '(1, 3, 0, 8)');
  const broken = picture(ramp.data, 5, 7);
  broken.data[35 + 9] = NaN;
  await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), broken), 'NaN', 'channel 1, row 1, column 2');
  for (const keyword of ['', ' x', 'a  b', '漢', 'x'.repeat(80), 'a\nb']) {
    await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), ramp, { [keyword]: 'v' }), 'keyword');
  }
  await expectIFError('INVALID_ARGUMENT', () => writePng(at('x.png'), ramp, { a: 'x\0y' }), 'NUL');
  expect(readdirSync(dir)).toEqual([]);
});

test('readPngText refuses what is not a whole PNG file', async () => {
  await expectIFError('NOT_FOUND', () => readPngText(at('none.png')), 'no such file');
  await writePng(at('x.png'), ramp, { seed: '1' });
  const bytes = readFileSync(at('x.png'));
  for (let length = 0; length < bytes.length; length++) {
    writeFileSync(at('cut.png'), bytes.subarray(0, length));
    await expectIFError('FILE_FORMAT', () => readPngText(at('cut.png')));
  }
  const damaged = Buffer.from(bytes);
  damaged[45]! ^= 1; // in the text chunk
  writeFileSync(at('damaged.png'), damaged);
  await expectIFError('FILE_FORMAT', () => readPngText(at('damaged.png')), 'tEXt', 'CRC');
});

test('bytes to values and back', async () => {
  const bytes = Uint8Array.from({ length: 2 * 3 * 256 }, (_, i) => i % 256);
  const images = toImages(bytes, 16, 16);
  expect(images.shape).toEqual([2, 3, 16, 16]);
  expect(images.data[0]).toBe(-1);
  expect(images.data[256]).toBe(Math.fround(1 / 127.5 - 1)); // green of the first pixel
  for (let n = 0; n < 2; n++) expect(toBytes({ data: images.data.subarray(n * 768, (n + 1) * 768), shape: [1, 3, 16, 16] })).toEqual(bytes.subarray(n * 768, (n + 1) * 768));
  await expectIFError('INVALID_ARGUMENT', () => toImages(bytes, 15, 15), /multiple of 3 · 15 · 15 bytes, got 1536/);
});
