import { mkdir, open, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { PixelCache } from '../../lib/data/pixel-cache.js';
import { expectIFError } from '../support/expect-error.js';
import { temporaryFolder } from '../support/pictures.js';

const layout = { key: 'k1', count: 5, bytes: 7 };
const picture = (index: number, shift = 0): Uint8Array => Uint8Array.from({ length: 7 }, (_, i) => 10 * index + i + shift);
/** Counts what is drawn; picture 3 cannot be. */
function renderer(shift = 0) {
  const drawn: number[] = [];
  return { drawn, render: async (index: number) => { drawn.push(index); return index === 3 ? { reason: 'too hard' } : picture(index, shift); } };
}

test('drawn once, read often, in any order', async () => {
  const file = path.join(await temporaryFolder(), 'new', 'folder', 'a.pixels');
  const { drawn, render } = renderer();
  const progress: [number, number][] = [];
  const cache = await PixelCache.open(file, layout, render, (done, total) => progress.push([done, total]));
  expect(drawn).toEqual([0, 1, 2, 3, 4]);
  expect(progress).toEqual([[1, 5], [2, 5], [3, 5], [4, 5], [5, 5]]);
  expect(await Promise.all([4, 0, 2, 3].map((i) => cache.read(i)))).toEqual([picture(4), picture(0), picture(2), { reason: 'too hard' }]);
  await cache.close();
  const again = await PixelCache.open(file, layout, render);
  expect(drawn.length).toBe(5);
  expect([await again.read(1), await again.read(3)]).toEqual([picture(1), { reason: 'too hard' }]);
  await again.close();
  expect(await readdir(path.dirname(file))).toEqual(['a.pixels']);
});

test('another key, count or size is drawn anew', async () => {
  const file = path.join(await temporaryFolder(), 'a.pixels');
  await (await PixelCache.open(file, layout, renderer().render)).close();
  for (const other of [{ ...layout, key: 'k2' }, { ...layout, key: 'k2', count: 4 }]) {
    const { drawn, render } = renderer(100);
    const cache = await PixelCache.open(file, other, render);
    expect(drawn.length).toBe(other.count);
    expect(await cache.read(0)).toEqual(picture(0, 100));
    await cache.close();
  }
});

test('a file that is cut off, grown or overwritten at any place of its end is drawn anew', async () => {
  const file = path.join(await temporaryFolder(), 'a.pixels');
  await (await PixelCache.open(file, layout, renderer().render)).close();
  const whole = await readFile(file);
  const damages: Buffer[] = [Buffer.alloc(0), whole.subarray(0, 35), Buffer.concat([whole, Buffer.from('x')])];
  for (let end = whole.length - 1; end > 30; end -= 9) damages.push(whole.subarray(0, end));
  for (let at = whole.length - 12; at < whole.length; at++) {
    const damaged = Buffer.from(whole);
    damaged[at]! ^= 0x55;
    damages.push(damaged);
  }
  for (const damaged of damages) {
    await writeFile(file, damaged);
    const { drawn, render } = renderer();
    const cache = await PixelCache.open(file, layout, render);
    expect(drawn.length).toBe(5);
    expect(await cache.read(4)).toEqual(picture(4));
    await cache.close();
    expect(await readFile(file)).toEqual(whole);
  }
});

test('two that open it at a time draw it once', async () => {
  const file = path.join(await temporaryFolder(), 'a.pixels');
  const { drawn, render } = renderer();
  const caches = await Promise.all([1, 2, 3].map(() => PixelCache.open(file, layout, render)));
  expect(drawn.length).toBe(5);
  for (const cache of caches) {
    expect(await cache.read(2)).toEqual(picture(2));
    await cache.close();
  }
});

test('an error while drawing comes out and leaves no file', async () => {
  const folder = await temporaryFolder();
  const failing = async (index: number): Promise<Uint8Array> => { if (index >= 2) throw new Error(`no ${index}`); return picture(index); };
  await expect(PixelCache.open(path.join(folder, 'a.pixels'), layout, failing)).rejects.toThrow('no 2');
  await expectIFError('INTERNAL', () => PixelCache.open(path.join(folder, 'a.pixels'), layout, async () => new Uint8Array(6)), /expected 7 bytes of picture 0, got 6/);
  expect(await readdir(folder)).toEqual([]);
});

test('a folder that is a file, and a file that is cut off while open', async () => {
  const folder = await temporaryFolder();
  await writeFile(path.join(folder, 'file'), '');
  await expectIFError('IO', () => PixelCache.open(path.join(folder, 'file', 'a.pixels'), layout, renderer().render), /ENOTDIR|EEXIST/);
  await mkdir(path.join(folder, 'a.pixels'));
  await expectIFError('IO', () => PixelCache.open(path.join(folder, 'a.pixels'), layout, renderer().render));
  const file = path.join(folder, 'b.pixels');
  const cache = await PixelCache.open(file, layout, renderer().render);
  await truncate(file, 10);
  await expectIFError('IO', () => cache.read(1), /cut off; delete it/);
  await (await open(file)).close();
  await cache.close();
});
