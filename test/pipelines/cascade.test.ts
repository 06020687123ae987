// What the pipeline promises beside the pictures: three stages, progress, previews, cancellation, checked options.
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { checkPlan } from '../../lib/pipelines/memory-plan.js';
import type { ProgressEvent } from '../../lib/pipelines/progress.js';
import type { Images } from '../../lib/tensor.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

const I = golden('tiny-if-I');
const II = golden('tiny-if-II');
const cacheDir = mkdtempSync(path.join(os.tmpdir(), 'if-cascade-'));
afterAll(() => rmSync(cacheDir, { recursive: true }));
const stage1 = (): Promise<Cascade> => Cascade.load({ stage1: I, cacheDir });
const short = { prompt: 'a red apple', seed: 3, timesteps: [2] };

test('three stages, several prompts with their own negatives', async () => {
  const cascade = await Cascade.load({ stage1: I, stage2: II, stage3: II, cacheDir });
  const all = await cascade.generate({ prompt: ['a', 'b'], negativePrompt: ['c', 'd'], seed: 1, timesteps: [1, 1, 1] });
  expect(all.stages.map((images) => images.shape)).toEqual([[2, 3, 32, 32], [2, 3, 64, 64], [2, 3, 64, 64]]);
  expect(all.images).toBe(all.stages[2]);
  const other = await cascade.generate({ prompt: ['a', 'b'], negativePrompt: ['c', 'x'], seed: 1, timesteps: [1, 1, 1] });
  const half = all.images.data.length / 2;
  // the second picture's negative prompt reaches its own picture only, in every stage
  for (const i of [0, 1, 2]) {
    const n = all.stages[i]!.data.length / 2;
    expect(other.stages[i]!.data.subarray(0, n)).toEqual(all.stages[i]!.data.subarray(0, n));
    expect(other.stages[i]!.data.subarray(n)).not.toEqual(all.stages[i]!.data.subarray(n));
  }
  expect(half).toBe(3 * 64 * 64);
});

test('left out: the embedded cascade, 64, 256 and 1024 px of one picture', { timeout: 120_000 }, async () => {
  const { stages } = await (await Cascade.load({ dtype: 'bf16', cacheDir })).generate({ prompt: 'a red apple', seed: 0 });
  expect(stages.map((images) => images.shape)).toEqual([[1, 3, 64, 64], [1, 3, 256, 256], [1, 3, 1024, 1024]]);
  const pixel = ({ data, shape: [, , height, width] }: Images, y: number, x: number): number[] =>
    [0, 1, 2].map((c) => data[(c * height + Math.floor(y * height)) * width + Math.floor(x * width)]!);
  for (const images of stages) {
    const [red, green, blue] = pixel(images, 0.6, 0.5) as [number, number, number];
    expect(red - Math.max(green, blue)).toBeGreaterThan(0.5);
    for (const value of pixel(images, 0.02, 0.02)) expect(value).toBeGreaterThan(0.9); // on white
  }
  const difference = (a: Images, b: Images): number => {
    const [height, width] = [a.shape[2], a.shape[3]];
    let sum = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [one, other] = [pixel(a, (y + 0.5) / height, (x + 0.5) / width), pixel(b, (y + 0.5) / height, (x + 0.5) / width)];
        for (let c = 0; c < 3; c++) sum += Math.abs(one[c]! - other[c]!) / (3 * height * width);
      }
    }
    return sum;
  };
  // 0.029 and 0.008; a tomato of the same seed differs by 0.25 and 0.24
  expect(difference(stages[0]!, stages[1]!)).toBeLessThan(0.1);
  expect(difference(stages[1]!, stages[2]!)).toBeLessThan(0.03);
});

test('not square: later stages keep the aspect', async () => {
  const cascade = await Cascade.load({ stage1: I, stage2: II, cacheDir });
  const { stages } = await cascade.generate({ prompt: 'a', seed: 1, timesteps: [1, 1], height: 16, width: 32 });
  expect(stages.map((images) => images.shape.slice(2))).toEqual([[16, 32], [32, 64]]);
});

test('progress tells plan, loading and every step; the last preview is the picture', async () => {
  const events: ProgressEvent[] = [];
  let preview: Promise<Images> | undefined;
  const { images } = await (await stage1()).generate({
    ...short,
    onProgress: (event) => {
      events.push(event);
      if (event.type === 'step') preview = event.preview();
    },
  });
  expect(events.filter((e) => e.type === 'plan').map((e) => e.component)).toEqual(['text_encoder', 'stage1']);
  expect(events.some((e) => e.type === 'load' && e.component === 'stage1' && e.done === e.total)).toBe(true);
  expect(events.flatMap((e) => (e.type === 'step' ? [`${e.step}/${e.steps} t=${e.timestep}`] : []))).toEqual(['1/2 t=500', '2/2 t=0']);
  // at t = 0 no noise is added, and the posterior mean is the predicted picture
  expect((await preview)!.shape).toEqual(images.shape);
  expect(Math.max(...(await preview)!.data.map((v, i) => Math.abs(v - images.data[i]!)))).toBeLessThan(1e-5);
});

test('an AbortSignal cancels, before and during the work', async () => {
  const cascade = await stage1();
  await expectIFError('CANCELLED', () => cascade.generate({ ...short, signal: AbortSignal.abort() }));
  const controller = new AbortController();
  const steps: number[] = [];
  await expectIFError('CANCELLED', () => cascade.generate({
    ...short, timesteps: [50], signal: controller.signal,
    onProgress: (event) => {
      if (event.type !== 'step') return;
      steps.push(event.step);
      if (event.step === 3) controller.abort();
    },
  }));
  expect(steps).toEqual([1, 2, 3]);
  await cascade.generate(short); // and it works afterwards
});

test('an error of the progress callback is thrown by generate, whatever the event', async () => {
  const cascade = await stage1();
  for (const type of ['plan', 'load', 'step']) {
    await expect(cascade.generate({ ...short, onProgress: (event) => { if (event.type === type) throw new RangeError(type); } })).rejects.toThrow(RangeError);
  }
});

test('the event loop stays free', async () => {
  const cascade = await stage1();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const started = performance.now();
  await cascade.generate({ ...short, height: 128, width: 128, timesteps: [5] });
  clearInterval(timer);
  expect(ticks).toBeGreaterThan((performance.now() - started) / 10 / 4);
});

test('options of the wrong name or type', async () => {
  await expectIFError('INVALID_ARGUMENT', () => Cascade.load({ stage_1: I } as never), /did you mean "stage1"/);
  await expectIFError('INVALID_ARGUMENT', () => Cascade.load('x' as never), /expected an object/);
  await expectIFError('INVALID_ARGUMENT', () => Cascade.load({ stage1: 3 } as never), /stage1/);
  const cascade = await stage1();
  const bad: [Record<string, unknown>, RegExp][] = [
    [{ timesteps: 3 }, /timesteps/], [{ timesteps: [null] }, /timesteps/], [{ guidance: 3 }, /guidance/], [{ guidance: [null] }, /guidance/],
    [{ guidance: [NaN] }, /guidance must be a finite number/], [{ noiseLevel: NaN }, /noise level/], [{ noiseLevel: -1 }, /noise level/],
    [{ signal: {} }, /signal/], [{ onProgress: 3 }, /onProgress/], [{ seed: -1 }, /seed/], [{ seed: 1.5 }, /seed/], [{ prompt: [] }, /1 to 1024/],
    [{ negativePrompt: ['a', 'b'] }, /1 text or 1/], [{ numImage: 2 }, /did you mean "numImages"/],
  ];
  for (const [options, message] of bad) await expectIFError('INVALID_ARGUMENT', () => cascade.generate({ ...short, ...options } as never), message);
});

test('a plan that cannot fit is refused', async () => {
  const plan = [{ component: 'stage1', weightBytes: 1e15, activationBytes: 1e6 }];
  await expectIFError('OUT_OF_MEMORY', () => checkPlan(plan, 'f32', 'f32'), /stage1 needs 1000000\.\d GB .*use --dtype bf16/);
  await expectIFError('OUT_OF_MEMORY', async () => (await stage1()).generate({ ...short, height: 16384, width: 16384 }), /activations/);
});
