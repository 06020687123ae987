// The emoji source on small sets made here, and on the real packages.
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { DataContext } from '../../lib/data/context.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { isHeldOut, loadEmojiSet, type EmojiGroup } from '../../lib/data/emoji-set.js';
import { openEmoji } from '../../lib/data/emoji.js';
import { openDataset } from '../../lib/data/open.js';
import { cut } from '../../lib/data/transforms.js';
import { expectIFError } from '../support/expect-error.js';
import { sequence, temporaryFolder } from '../support/pictures.js';

const root = path.join(import.meta.dirname, '..', '..');
const rectangle = (x: number, y: number, width: number, height: number, fill: string): string => `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="${fill}"/>`;
const emoji = (label: string, hexcode: string, more: object = {}): object => ({ label, hexcode, group: 4, tags: [], ...more });

interface Parts { icons?: object; names?: unknown; iconsVersion?: string }
/** A project folder with packages of these contents. */
async function project({ icons, names, iconsVersion = '1.0.0' }: Parts): Promise<string> {
  const folder = await temporaryFolder();
  const put = async (name: string, content: unknown): Promise<void> => {
    const file = path.join(folder, 'node_modules', name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
  };
  await put('@iconify-json/noto/package.json', { name: '@iconify-json/noto', version: iconsVersion });
  await put('@iconify-json/noto/icons.json', icons ?? {
    prefix: 'noto', width: 8, height: 8,
    icons: {
      'left-half': { body: rectangle(0, 0, 4, 8, '#ff0000') },
      wide: { body: rectangle(0, 0, 16, 8, '#00ff00'), width: 16 },
      offset: { body: rectangle(-4, -4, 8, 8, '#0000ff'), left: -4, top: -4 },
      'person-mage': { body: rectangle(0, 0, 8, 8, '#101010') },
      'flag-france': { body: '' }, 'one-oclock': { body: '' }, nameless: { body: '' }, broken: { body: '<rect' },
    },
    aliases: { 'right-half': { parent: 'left-half', hFlip: true }, turned: { parent: 'left-half', rotate: 1 }, orphan: { parent: 'none' } },
  });
  await put('emojibase-data/package.json', { name: 'emojibase-data', version: '9.9.9' });
  await put('emojibase-data/en/data.json', names ?? [
    emoji('left half', 'A1', { tags: ['half', 'red', 'side', 'square', 'big', 'bold', 'plain', 'west'] }), emoji('right half', 'A2'),
    emoji('Wide!', 'A3'), emoji('offset', 'A4'), emoji('mage', 'A5'), emoji('broken', 'A6'),
    emoji('turned', 'A7'), emoji('orphan', 'A8'), emoji('without icon', 'A9'), emoji('constructor', 'AA'),
    emoji('flag: France', '1F1EB-1F1F7', { group: 9 }), emoji('one o’clock', '1F550'), emoji('nameless', '1F1E6', { group: undefined }),
  ]);
  return folder;
}
const context = async (base: string, more: Partial<DataContext> = {}): Promise<DataContext> => ({ base, cacheDir: await temporaryFolder(), ...more });
const pixel = (image: Uint8Array, size: number, x: number, y: number): number[] => [...image.subarray(3 * (y * size + x), 3 * (y * size + x) + 3)];
async function all(dataset: Dataset, size: number): Promise<Map<string, Uint8Array>> {
  const images = new Map<string, Uint8Array>();
  for (let i = 0; i < dataset.length; i++) {
    const sample = await dataset.load(i, { width: size, height: size, random: () => 0 });
    if (sample) images.set(sample.caption, sample.image);
  }
  return images;
}

test('icons are found by name, drawn on white, centred when they are not square, mirrored when the set says so', async () => {
  const dataset = await openEmoji({ set: 'noto' }, await context(await project({})));
  expect(dataset.description).toBe('noto emojis, train, 6 pictures (@iconify-json/noto 1.0.0, emojibase-data 9.9.9)');
  for (const size of [16, 64, 300]) { // 300: drawn without a cache
    const images = await all(dataset, size);
    expect([...images.keys()]).toEqual(['left half', 'right half', 'Wide!', 'offset', 'mage']);
    const [near, far, middle] = [1, size - 2, size >> 1];
    expect([pixel(images.get('left half')!, size, near, middle), pixel(images.get('left half')!, size, far, middle)]).toEqual([[255, 0, 0], [255, 255, 255]]);
    expect([pixel(images.get('right half')!, size, near, middle), pixel(images.get('right half')!, size, far, middle)]).toEqual([[255, 255, 255], [255, 0, 0]]);
    expect([pixel(images.get('Wide!')!, size, middle, near), pixel(images.get('Wide!')!, size, near, middle)]).toEqual([[255, 255, 255], [0, 255, 0]]);
    expect([pixel(images.get('offset')!, size, near, near), pixel(images.get('offset')!, size, far, far)]).toEqual([[0, 0, 255], [0, 0, 255]]);
    for (const image of images.values()) expect(image.length).toBe(3 * size * size);
  }
  expect(dataset.skipped).toEqual([{ key: 'noto/A6', reason: expect.stringMatching(/^it cannot be drawn: /) }]);
  await dataset.close();
});

test('captions: the name more often than the rest, keywords that the name does not have', async () => {
  const { emojis } = await loadEmojiSet('noto', await project({}));
  expect(emojis[0]!.captions).toEqual(['left half', 'left half', 'left half', 'left half', 'a left half', 'left half, red, side, square', 'left half, big, bold, plain']);
  expect(emojis[1]!.captions).toEqual(['right half', 'right half', 'right half', 'right half', 'a right half']);
  const dataset = await openEmoji({ set: 'noto' }, await context(await project({})));
  expect((await dataset.load(0, { width: 8, height: 8, random: sequence(0.99, 0.9) }))!.caption).toBe('left half, big, bold, plain');
  const captions: string[] = [];
  for await (const caption of dataset.captions()) captions.push(caption);
  expect(captions.slice(0, 5)).toEqual(['left half', 'a left half', 'left half, red, side, square', 'left half, big, bold, plain', 'right half']);
  expect(captions.length).toBe(4 + 5 * 2);
  await dataset.close();
});

test('a part at a random place is that part of the whole, from the cache or drawn alone', async () => {
  for (const [cropFrom, size] of [[256, 64], [300, 75]] as const) { // 300: drawn without a cache
    const base = await project({});
    const uncut = await openEmoji({ set: 'noto' }, await context(base));
    const whole = await all(uncut, cropFrom);
    await uncut.close();
    const dataset = await openEmoji({ set: 'noto', cropFrom }, await context(base));
    for (let i = 0; i < dataset.length; i++) {
      const sample = await dataset.load(i, { width: size, height: size, random: sequence(0, 0.9, 0.34, 0.999) });
      if (!sample) continue;
      const [left, top] = [Math.floor(0.34 * (cropFrom - size + 1)), cropFrom - size];
      const expected = cut(whole.get(sample.caption)!, cropFrom, left, top, { width: size, height: size });
      expect(`${sample.caption}: ${sample.image.filter((value, n) => value !== expected[n]).length} of ${expected.length} differ`).toBe(`${sample.caption}: 0 of ${expected.length} differ`);
    }
    await expectIFError('INVALID_ARGUMENT', () => dataset.load(0, { width: cropFrom + 1, height: cropFrom + 1, random: () => 0 }), /data\.cropFrom: expected at least the size of the pictures, \d+, got \d+/);
    await dataset.close();
  }
});

test('groups', async () => {
  const base = await project({ names: [emoji('left half', 'A1'), emoji('wide', 'A3', { group: 0 }), emoji('offset', 'A4', { group: 8 })] });
  const names = async (groups?: EmojiGroup[]): Promise<string[]> => {
    const dataset = await openEmoji({ set: 'noto', ...(groups ? { groups } : {}) }, await context(base));
    const names = [...(await all(dataset, 8)).keys()];
    await dataset.close();
    return names;
  };
  expect(await names()).toEqual(['left half', 'wide', 'offset']);
  expect(await names(['symbols', 'food'])).toEqual(['left half', 'offset']);
  await expectIFError('INVALID_ARGUMENT', () => names(['flags' as never]), /data\.groups: expected some of smileys, .*, symbols, got "flags"/);
  await expectIFError('INVALID_ARGUMENT', () => names([]), /data\.groups/);
});

test('mirrored on request only', async () => {
  const base = await project({});
  for (const flip of [false, true]) {
    const dataset = await openEmoji({ set: 'noto', flip }, await context(base));
    const sample = (await dataset.load(0, { width: 16, height: 16, random: sequence(0, 0.49) }))!;
    expect(pixel(sample.image, 16, flip ? 14 : 1, 8)).toEqual([255, 0, 0]);
    await dataset.close();
  }
});

test('the cache: kept per size and version, one line of progress per task, drawn anew when a package changes', async () => {
  const cacheDir = await temporaryFolder();
  const progress: string[] = [];
  const run = async (base: string, size: number): Promise<void> => {
    const dataset = await openDataset({ type: 'emoji', set: 'noto' }, { base, cacheDir, onProgress: (task, done, total) => progress.push(`${task}: ${done}/${total}`) });
    await all(dataset, size);
    await dataset.close();
  };
  const base = await project({});
  await run(base, 16);
  await run(base, 16);
  expect(progress).toEqual([1, 2, 3, 4, 5, 6].map((done) => `drawing noto emojis of 16 × 16: ${done}/6`));
  await run(base, 8);
  await run(await project({ iconsVersion: '1.0.1' }), 16);
  expect(progress.length).toBe(18);
  expect((await readdir(path.join(cacheDir, 'pixels'))).map((name) => name.replace(/-[0-9a-f]{16}/, ''))).toEqual(['noto-16.pixels', 'noto-16.pixels', 'noto-8.pixels']);
});

test('a cache that cannot be written is a warning', async () => {
  const folder = await temporaryFolder();
  await writeFile(path.join(folder, 'file'), '');
  const warnings: string[] = [];
  const dataset = await openEmoji({ set: 'noto' }, { base: await project({}), cacheDir: path.join(folder, 'file'), onWarning: (message) => warnings.push(message) });
  expect((await all(dataset, 8)).size).toBe(5);
  expect(warnings).toEqual([expect.stringMatching(/\(ENOTDIR\); emojis are drawn each time instead$/)]);
  await dataset.close();
});

test('what is missing or of another form is one clear line', async () => {
  const empty = await temporaryFolder();
  await expectIFError('FILE_FORMAT', async () => loadEmojiSet('noto', await project({ icons: { icons: null } })), /@iconify-json\/noto 1\.0\.0 and emojibase-data 9\.9\.9 are not of the expected form/);
  await expectIFError('FILE_FORMAT', async () => loadEmojiSet('noto', await project({ names: {} })), /not of the expected form/);
  await expectIFError('FILE_FORMAT', async () => loadEmojiSet('noto', await project({ names: [] })), /no name of emojibase-data 9\.9\.9 fits an icon/);
  await expectIFError('FILE_FORMAT', async () => loadEmojiSet('noto', await project({ names: '[' })), /en.data\.json: .*; install the package again/);
  await expectIFError('INVALID_ARGUMENT', () => loadEmojiSet('apple' as never, empty), /data\.set: expected noto or fluent, got "apple"/);
  await expectIFError('INVALID_ARGUMENT', async () => openEmoji({ set: 'noto', split: 'test' as never }, await context(await project({}))), /data\.split: expected train or validation, got "test"/);
});

test('packages that are not installed: the command that installs them', async () => {
  const found = new Set<string>();
  vi.resetModules();
  vi.doMock('node:module', async (original) => ({
    ...await original<typeof import('node:module')>(),
    createRequire: () => ({ resolve: (name: string) => { if (!found.has(name)) throw new Error('not found'); return `/nowhere/${name}`; } }),
  }));
  onTestFinished(() => { vi.doUnmock('node:module'); vi.resetModules(); });
  const { loadEmojiSet: load } = await import('../../lib/data/emoji-set.js');
  await expect(load('noto', '/my/project')).rejects.toMatchObject({
    code: 'NOT_FOUND', message: 'emoji data: @iconify-json/noto and emojibase-data are not installed in /my/project; run: npm install @iconify-json/noto emojibase-data',
  });
  found.add('emojibase-data/package.json');
  await expect(load('fluent', '/my/project')).rejects.toMatchObject({
    message: 'emoji data: @iconify-json/fluent-emoji is not installed in /my/project; run: npm install @iconify-json/fluent-emoji',
  });
});

// the devDependencies of this package
for (const set of ['noto', 'fluent'] as const) {
  test(`${set}: names, hold-out and pictures of the real package`, async () => {
    const cacheDir = await temporaryFolder();
    const train = await openEmoji({ set }, { base: root, cacheDir });
    const validation = await openEmoji({ set, split: 'validation' }, { base: root, cacheDir });
    const { emojis } = await loadEmojiSet(set, root);
    expect(emojis.length).toBeGreaterThan(1500);
    expect(train.length + validation.length).toBe(emojis.length);
    expect(validation.length / emojis.length).toBeGreaterThan(0.03);
    expect(validation.length / emojis.length).toBeLessThan(0.07);
    expect(new Set(emojis.map(({ hexcode }) => hexcode)).size).toBe(emojis.length);
    expect(emojis.filter(({ name }) => /skin tone|^flag: |o’clock|-thirty/.test(name))).toEqual([]);
    const apple = emojis.findIndex(({ name }) => name === 'red apple');
    expect(isHeldOut('1F34E')).toBe(false);
    const index = emojis.slice(0, apple).filter(({ hexcode }) => !isHeldOut(hexcode)).length;
    const sample = (await train.load(index, { width: 32, height: 32, random: () => 0 }))!;
    expect([sample.key, sample.caption, sample.image.length]).toEqual([`${set}/1F34E`, 'red apple', 3072]);
    expect(pixel(sample.image, 32, 0, 0)).toEqual([255, 255, 255]);
    const [red, green, blue] = pixel(sample.image, 32, 16, 20) as [number, number, number];
    expect(red).toBeGreaterThan(180);
    expect(Math.max(green, blue)).toBeLessThan(120);
    const held = (await validation.load(0, { width: 32, height: 32, random: () => 0 }))!;
    expect(isHeldOut(held.key.split('/')[1]!)).toBe(true);
    expect([train.skipped, validation.skipped]).toEqual([[], []]);
    expect(await readdir(path.join(cacheDir, 'pixels'))).toHaveLength(1); // both splits share it
    await train.close();
    await validation.close();
  });
}
