// End to end against pictures that diffusers drew from the same files, seeds and settings (golden/pipelines_io and the
// reference samples of models/if-emoji), in float32, with direct convolutions unless said; accepted at 2e-3 absolute
// (golden/README.md).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { addon, type Precision } from '../../lib/addon.js';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { Stage } from '../../lib/pipelines/stage.js';
import { encodePrompts, PROMPT_TOKENS } from '../../lib/text/prompt-embeddings.js';
import { Tensor, type Images } from '../../lib/tensor.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';
import { maxAbsoluteError } from '../support/compare.js';

const TOLERANCE = 2e-3;
const PROMPT = 'a photo of a red apple';
const NEGATIVE = 'blurry, low quality';
const I = golden('tiny-if-I');
const II = golden('tiny-if-II');
const cacheDir = mkdtempSync(path.join(os.tmpdir(), 'if-golden-'));
afterAll(() => rmSync(cacheDir, { recursive: true }));

const io = readSafetensors(golden('pipelines_io.safetensors'));
const stage1 = (): Promise<Cascade> => Cascade.load({ stage1: I, dtype: 'f32', precision: 'exact', cacheDir });

function expectPicture(images: Images, name: string): void {
  expect(images.shape).toEqual(io.get(name)!.shape);
  expect(maxAbsoluteError(images.data, floats(io, name))).toBeLessThanOrEqual(TOLERANCE);
}

test('text to image', async () => {
  const { images } = await (await stage1()).generate({ prompt: PROMPT, seed: 0, timesteps: [6] });
  expectPicture(images, 'dream_I');
});

test('the same picture with the default, faster convolutions, and not the same bits', async () => {
  const exact = await (await stage1()).generate({ prompt: PROMPT, seed: 0, timesteps: [6] });
  const fast = await (await Cascade.load({ stage1: I, dtype: 'f32', cacheDir })).generate({ prompt: PROMPT, seed: 0, timesteps: [6] });
  expectPicture(fast.images, 'dream_I');
  expect([exact.precision, fast.precision]).toEqual(['exact', 'default']);
  expect(maxAbsoluteError(fast.images.data, exact.images.data)).toBeGreaterThan(0);
});

test('two prompts with negative prompts, not square', async () => {
  const { images } = await (await stage1()).generate({
    prompt: [PROMPT, 'yoda pokemon'], negativePrompt: [NEGATIVE, NEGATIVE], seed: 3, timesteps: [4], guidance: [10], height: 48, width: 32,
  });
  expectPicture(images, 'dream_I_negative_batch2');
});

test('no guidance, two pictures of one prompt', async () => {
  const { images } = await (await stage1()).generate({ prompt: PROMPT, numImages: 2, seed: 4, timesteps: [4], guidance: [1] });
  expectPicture(images, 'dream_I_noguidance_2perprompt');
});

test('super-resolution of a given picture', async () => {
  const cascade = await stage1();
  const [positive, negative] = await encodePrompts([PROMPT, ''], cascade.textEncoder, { dtype: 'f32', device: 'cpu:0', cacheDir });
  const shape = [1, PROMPT_TOKENS, cascade.textEncoder.config.dModel];
  const smallShape = io.get('dream_I')!.shape as Images['shape'];
  const images = await (await Stage.open(II)).sample({
    text: Tensor.from(positive!, shape, 'cpu:0'), negativeText: Tensor.from(negative!, shape, 'cpu:0'), batch: 1, height: 64, width: 64,
    lowRes: { data: floats(io, 'dream_I'), shape: smallShape }, generator: addon.generatorCreate(1n),
    settings: { timesteps: 4, guidance: 4, noiseLevel: 250 }, dtype: 'f32', precision: 'exact', device: 'cpu:0', index: 2,
  });
  expectPicture(images, 'super_res_II');
});

test('image to image: the last part of the steps, from a noised picture', async () => {
  const cascade = await stage1();
  const [positive, negative] = await encodePrompts([PROMPT, ''], cascade.textEncoder, { dtype: 'f32', device: 'cpu:0', cacheDir });
  const shape = [1, PROMPT_TOKENS, cascade.textEncoder.config.dModel];
  const picture = (name: string): Images => ({ data: floats(io, name), shape: io.get(name)!.shape as Images['shape'] });
  const common = { text: Tensor.from(positive!, shape, 'cpu:0'), negativeText: Tensor.from(negative!, shape, 'cpu:0'), batch: 1, dtype: 'f32', exact: true, device: 'cpu:0' } as const;
  // guidance 10 and 4: the defaults of diffusers' pipelines
  const small = await (await Stage.open(I)).sample({
    ...common, height: 32, width: 32, lowRes: undefined, generator: addon.generatorCreate(5n), settings: { timesteps: 6, guidance: 10, noiseLevel: 0 },
    start: { images: picture('img_input'), strength: 0.7 }, index: 1,
  });
  expectPicture(small, 'img2img_I');
  const large = await (await Stage.open(II)).sample({
    ...common, height: 64, width: 64, lowRes: picture('img_input'), generator: addon.generatorCreate(7n), settings: { timesteps: 5, guidance: 4, noiseLevel: 250 },
    start: { images: picture('img_big'), strength: 0.8 }, index: 2,
  });
  expectPicture(large, 'img2img_II');
});

test('one generator through both stages', async () => {
  const cascade = await Cascade.load({ stage1: I, stage2: II, dtype: 'f32', precision: 'exact', cacheDir });
  const { stages } = await cascade.generate({ prompt: PROMPT, seed: 11, timesteps: [4, 3] });
  expectPicture(stages[0]!, 'chained_I');
  expectPicture(stages[1]!, 'chained_II');
});

test('the embedded if-emoji draws the pictures of diffusers, with the default convolutions and with direct ones', { timeout: 600_000 }, async () => {
  const samples = readSafetensors(golden('if-emoji/reference_samples.safetensors'));
  const { prompts, timesteps, guidance, seed } = JSON.parse(readFileSync(golden('if-emoji/reference_samples.json'), 'utf8')) as { prompts: string[]; timesteps: number[]; guidance: number; seed: number };
  const emoji = (precision: Precision): Promise<Cascade> => Cascade.load({ stage1: path.resolve('models/if-emoji'), dtype: 'f32', precision, cacheDir });
  const batch = await (await emoji('default')).generate({ prompt: prompts, seed, timesteps: [timesteps], guidance: [guidance] });
  expect(maxAbsoluteError(batch.images.data, floats(samples, 'grid24_seed0'))).toBeLessThanOrEqual(TOLERANCE);
  const one = await (await emoji('exact')).generate({ prompt: 'a red apple', seed: 1, timesteps: [timesteps], guidance: [guidance] });
  expect(maxAbsoluteError(one.images.data, floats(samples, 'a_red_apple_seed1'))).toBeLessThanOrEqual(TOLERANCE);
});
