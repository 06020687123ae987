// How well the cascade if-emoji draws what is asked. `npm run bench:emoji`: 40 common names × 4 seeds at 64 px; a picture
// counts when the emoji that was asked for is the nearest of all training pictures (or among the five nearest), those mirrored
// included, after average pooling to 16 × 16. `-- --upscale 2` (or 3): PSNR of a stage's enlarged held-out pictures beside
// bicubic interpolation. `--timesteps 20` are 20 steps; a list has commas (`999,0`).
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addon, type DType } from '../lib/addon.js';
import type { DataContext } from '../lib/data/context.js';
import type { Dataset, Sample } from '../lib/data/dataset.js';
import type { EmojiGroup } from '../lib/data/emoji-set.js';
import { openEmoji } from '../lib/data/emoji.js';
import { lowResolution, mirror } from '../lib/data/transforms.js';
import { toBytes, toImages, writePng } from '../lib/image.js';
import { Cascade } from '../lib/pipelines/cascade.js';
import { sampleDefaults } from '../lib/pipelines/sample-defaults.js';
import { Stage } from '../lib/pipelines/stage.js';
import { imageAt, Tensor, type Images } from '../lib/tensor.js';
import { defaultCacheDir, encodePrompts, PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { openTextEncoder } from '../lib/pipelines/text-encoder.js';
import { grid } from '../lib/training/preview.js';

const NAMES = [
  'monkey face', 'dog face', 'fox', 'cat face', 'lion', 'tiger face', 'unicorn', 'cow face', 'pig face', 'elephant', 'rabbit face', 'koala', 'panda',
  'penguin', 'frog', 'turtle', 'fish', 'octopus', 'butterfly', 'rose', 'sunflower', 'tulip', 'cactus', 'four leaf clover', 'mushroom',
  'grapes', 'watermelon', 'lemon', 'banana', 'red apple', 'cherries', 'strawberry', 'avocado', 'carrot', 'cheese wedge', 'hamburger', 'pizza',
  'ice cream', 'doughnut', 'birthday cake',
];
const TRAINED_GROUPS: EmojiGroup[] = ['animals', 'food'];
const POOLED = 16;
const NEAREST = 5;
const EMBEDDED = fileURLToPath(new URL('../models/if-emoji', import.meta.url));
const device = 'cpu:0';

const { values } = parseArgs({ options: {
  model: { type: 'string', default: EMBEDDED }, groups: { type: 'string' }, seeds: { type: 'string', default: '4' }, dtype: { type: 'string', default: 'bf16' },
  timesteps: { type: 'string' }, guidance: { type: 'string' }, 'noise-level': { type: 'string' }, grid: { type: 'string' },
  upscale: { type: 'string' }, pictures: { type: 'string', default: '8' }, verbose: { type: 'boolean', default: false },
} });
const dtype = values.dtype as DType;
const groups = (values.groups?.split(',') ?? TRAINED_GROUPS) as EmojiGroup[];
const context: DataContext = { base: process.cwd(), cacheDir: defaultCacheDir() };
/** A number of steps, a schedule's name, or timesteps divided by commas. */
function timestepSpec(text: string): number | string | number[] {
  if (/^\d+$/.test(text)) return Number(text);
  return /^[\d,]+$/.test(text) ? text.split(',').map(Number) : text;
}
const settings = {
  ...(values.timesteps === undefined ? {} : { timesteps: [timestepSpec(values.timesteps)] }),
  ...(values.guidance === undefined ? {} : { guidance: [Number(values.guidance)] }),
};

/** All pictures of a set with their names. */
async function pictures(dataset: Dataset, size: number, count = dataset.length): Promise<Sample[]> {
  const all = await Promise.all(Array.from({ length: Math.min(count, dataset.length) }, (_, i) => dataset.load(i, { width: size, height: size, random: () => 0 })));
  return all.filter((sample) => sample !== undefined);
}

/** Means of the blocks of a square picture, RGB bytes → 3 · 16 · 16 numbers. */
function pooled(image: Uint8Array, size: number): Float32Array {
  const block = size / POOLED;
  const means = new Float32Array(3 * POOLED * POOLED);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const to = 3 * (Math.floor(y / block) * POOLED + Math.floor(x / block));
      for (let c = 0; c < 3; c++) means[to + c]! += image[3 * (y * size + x) + c]! / block ** 2;
    }
  }
  return means;
}

function distance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return sum;
}

async function asked(): Promise<void> {
  const size = 64;
  const dataset = await openEmoji({ set: 'fluent', groups }, context);
  const training = await pictures(dataset, size);
  const known = training.map(({ image, caption }) => ({ name: caption, image, forms: [pooled(image, size), pooled(mirror(image, size), size)] }));
  const missing = NAMES.filter((name) => !known.some((picture) => picture.name === name));
  if (missing.length > 0) throw new Error(`not among the training pictures: ${missing.join(', ')}`);

  const cascade = await Cascade.load({ stage1: values.model, dtype });
  const seeds = Number(values.seeds);
  const rows = NAMES.map((name) => ({ name, drawn: [] as Images[], first: 0, five: 0, nearest: [] as string[] }));
  for (let seed = 0; seed < seeds; seed++) {
    const { images } = await cascade.generate({ prompt: NAMES, seed, ...settings });
    rows.forEach((row, i) => {
      const image = imageAt(images, i);
      const small = pooled(toBytes(image), size);
      const near = known.map(({ name, forms }) => ({ name, by: Math.min(...forms.map((form) => distance(form, small))) })).sort((a, b) => a.by - b.by).slice(0, NEAREST);
      row.drawn.push(image);
      row.nearest.push(near[0]!.name);
      if (near[0]!.name === row.name) row.first++;
      if (near.some(({ name }) => name === row.name)) row.five++;
    });
  }
  for (const { name, first, five, nearest } of rows) console.log(`${name.padEnd(30)} nearest ${first}/${seeds}  among five ${five}/${seeds}${values.verbose ? `  ${nearest.join(' | ')}` : ''}`);
  const percent = (count: number): string => `${((100 * count) / (NAMES.length * seeds)).toFixed(1)} %`;
  const sum = (key: 'first' | 'five'): number => rows.reduce((total, row) => total + row[key], 0);
  console.log(`${dataset.description}\n${NAMES.length} names × ${seeds} seeds: nearest ${percent(sum('first'))}, among the five nearest ${percent(sum('five'))}`);
  // per name: the samples, and the picture that was asked for
  if (values.grid) await writePng(values.grid, grid(rows.map(({ name, drawn }) => joined([...drawn, toImages(known.find((picture) => picture.name === name)!.image, size, size)]))), { Software: 'deepfloyd-if' });
  await dataset.close();
}

/** Pictures of one size side by side. */
function joined(images: readonly Images[]): Images {
  const [, channels, height, width] = images[0]!.shape;
  const data = new Float32Array(channels * height * width * images.length);
  images.forEach((image, i) => {
    for (let row = 0; row < channels * height; row++) data.set(image.data.subarray(row * width, (row + 1) * width), (row * images.length + i) * width);
  });
  return { data, shape: [1, channels, height, width * images.length] };
}

/** Peak signal-to-noise ratio of RGB bytes in dB. */
function psnr(a: Uint8Array, b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.length));
}

async function upscaled(index: 2 | 3): Promise<void> {
  const size = index === 2 ? 256 : 1024;
  const stage = await Stage.open(path.join(values.model, `stage${index}`));
  const defaults = await sampleDefaults(stage);
  const text = await openTextEncoder((await Stage.open(values.model)).folder, 'model', {});
  const dataset = await openEmoji({ set: 'fluent', groups, split: 'validation' }, context);
  const all = { bicubic: [] as number[], ours: [] as number[] };
  const shown: Images[] = [];
  for (const { image, caption } of await pictures(dataset, size, Number(values.pictures))) {
    const small = await lowResolution(image, { width: size, height: size }, 4, 'bicubic');
    const bicubic = await addon.resizePixels(small, size / 4, size / 4, 3, size, size, 'bicubic');
    const [positive, negative] = await encodePrompts([caption, ''], text, { dtype, device, cacheDir: null });
    const tensor = (embedding: Float32Array): Tensor => Tensor.from(embedding, [1, PROMPT_TOKENS, text.config.dModel], device);
    const guidance = settings.guidance?.[0] ?? defaults.guidance;
    const drawn = await stage.sample({
      text: tensor(positive!), negativeText: guidance > 1 ? tensor(negative!) : undefined, batch: 1, height: size, width: size, lowRes: toImages(small, size / 4, size / 4),
      generator: addon.generatorCreate(0n), dtype, device, index,
      settings: { timesteps: settings.timesteps?.[0] ?? defaults.timesteps, guidance, noiseLevel: values['noise-level'] === undefined ? defaults.noiseLevel : Number(values['noise-level']) },
    });
    all.bicubic.push(psnr(bicubic, image));
    all.ours.push(psnr(toBytes(drawn), image));
    shown.push(joined([toImages(bicubic, size, size), drawn, toImages(image, size, size)]));
    console.log(`${caption.padEnd(30)} bicubic ${all.bicubic.at(-1)!.toFixed(2)} dB, stage ${index} ${all.ours.at(-1)!.toFixed(2)} dB`);
  }
  const mean = (list: number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;
  console.log(`${dataset.description}\nmean of ${all.ours.length}: bicubic ${mean(all.bicubic).toFixed(2)} dB, stage ${index} ${mean(all.ours).toFixed(2)} dB, gain ${(mean(all.ours) - mean(all.bicubic)).toFixed(2)} dB`);
  if (values.grid) await writePng(values.grid, grid(shown), { Software: 'deepfloyd-if' });
  await dataset.close();
}

if (values.upscale === undefined) await asked();
else if (values.upscale === '2' || values.upscale === '3') await upscaled(Number(values.upscale) as 2 | 3);
else {
  console.error(`emoji-figures: --upscale: expected 2 or 3, got "${values.upscale}"`);
  process.exit(2);
}
