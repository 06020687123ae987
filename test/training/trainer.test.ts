// The loop around the model, with the stand-in of fake-trainer: what a step is made of, checkpoints, faults.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { IFError } from '../../lib/errors.js';
import type { TrainingConfig } from '../../lib/training/config.js';
import type { TrainingEvent } from '../../lib/training/events.js';
import { resolveConfig } from '../../lib/training/resolve-config.js';
import { train, type TrainOptions } from '../../lib/training/trainer.js';
import { expectIFError } from '../support/expect-error.js';
import { installFakeTrainer, type FakeOptions, type FakeState } from '../support/fake-trainer.js';
import { plain, temporaryFolder } from '../support/pictures.js';
import { golden } from '../support/safetensors.js';
import { tar } from '../support/tar.js';

const PICTURES = 11;
let data: string;
let cacheDir: string;
let events: TrainingEvent[] = [];

beforeAll(async () => {
  const { mkdtempSync } = await import('node:fs');
  const { tmpdir } = await import('node:os');
  const root = mkdtempSync(path.join(tmpdir(), 'if-trainer-'));
  data = path.join(root, 'data');
  cacheDir = path.join(root, 'cache');
  mkdirSync(data);
  for (let i = 0; i < PICTURES; i++) await plain(40, 32, [20 * i, 255 - 20 * i, 99]).png().toFile(path.join(data, `${i}.png`));
  writeFileSync(path.join(data, 'metadata.jsonl'), Array.from({ length: PICTURES }, (_, i) => JSON.stringify({ file_name: `${i}.png`, text: `colour ${i}` })).join('\n'));
  return () => rmSync(root, { recursive: true, force: true });
});
afterEach(() => {
  events = [];
});

function fake(options: FakeOptions = {}): FakeState {
  const { state, restore } = installFakeTrainer(options);
  onTestFinished(restore);
  return state;
}

const base: TrainingConfig = {
  model: { folder: golden('tiny-if-I') }, data: { type: 'folder', path: '' }, steps: 12, batchSize: 4, previews: false, validation: { pictures: 2, timesteps: 3, every: 5 },
  checkpoints: { every: 4, keep: 2 }, optimizer: { lr: 0.01 }, dtype: 'f32',
};
async function run(out: string, change: Partial<TrainingConfig> = {}, options: TrainOptions = {}): Promise<void> {
  const config = resolveConfig({ ...base, data: { type: 'folder', path: data }, out, ...change }, 'test', out);
  await train(config, { cacheDir, onEvent: (event) => events.push(event), ...options });
}
const weights = (out: string, step: number): string[] => ['unet', 'unet_moments', 'unet_ema'].map((part) => readFileSync(path.join(out, 'checkpoints', `step-${String(step).padStart(6, '0')}`, `${part}.safetensors`), 'utf8'));
const checkpoints = (out: string): string[] => readdirSync(path.join(out, 'checkpoints')).sort();
const metrics = (out: string): Record<string, number | string>[] => readFileSync(path.join(out, 'metrics.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Record<string, number>);
const losses = (out: string): unknown[] => metrics(out).filter(({ group }) => group === 'train').map(({ step, loss, gradient_norm }) => [step, loss, gradient_norm]);
const messages = (type: 'warning' | 'status'): string => events.flatMap((event) => (event.type === type ? [event.message] : [])).join('\n');

/** Runs until the step is done, then stops as Ctrl-C does. */
async function interrupted(out: string, step: number, change: Partial<TrainingConfig> = {}, options: TrainOptions = {}): Promise<void> {
  const controller = new AbortController();
  const onEvent = (event: TrainingEvent): void => {
    events.push(event);
    if (event.type === 'step' && event.step === step) controller.abort();
  };
  await expectIFError('CANCELLED', () => run(out, change, { ...options, onEvent, signal: controller.signal }), new RegExp(`stopped after step ${step}; continue it with --resume`));
}

describe('a step', () => {
  test('is made of a logical batch, whatever its split', async () => {
    const whole = fake();
    const out = await temporaryFolder();
    await run(out);
    expect(whole.batches.length).toBe(12);
    expect(whole.steps.map(({ step }) => step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(whole.steps[3]).toEqual({ step: 4, lr: 0.01, weightDecay: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1, normLimit: 1e4, emaDecay: 4 / 13 });
    const first = whole.batches[0]!.batch;
    expect(first).toMatchObject({ height: 32, width: 32, lowRes: null, ids: null, gradientScale: 0.25, seed: 0n, loss: 'mse', noise: { offset: 0, pyramidDiscount: 0, inputPerturbation: 0 } });
    expect(whole.batches[0]!.captions).toBe(4);
    expect(whole.batches.flatMap(({ batch }) => batch.samples.map(({ index }) => index))).toEqual(Array.from({ length: 48 }, (_, i) => i));
    expect(first.samples.every(({ variationalWeight }) => variationalWeight === 1)).toBe(true); // tiny-if-I learns its variance

    for (const change of [{ microBatch: 2 }, { microBatch: 1 }, { devices: ['cpu:0', 'cpu:1'] }, { devices: ['cpu:0', 'cpu:1'], microBatch: 1 }]) {
      const split = fake();
      const other = await temporaryFolder();
      await run(other, change);
      const samples = split.batches.flatMap(({ batch }) => batch.samples).sort((a, b) => a.index - b.index);
      expect(samples).toEqual(whole.batches.flatMap(({ batch }) => batch.samples));
      expect(losses(other)).toEqual(losses(out));
      expect(weights(other, 12)).toEqual(weights(out, 12));
      if (change.devices) for (const { device, batch } of split.batches) for (const { index } of batch.samples) expect(device).toBe(index % 4 < 2 ? 'cpu:0' : 'cpu:1');
    }
  });

  test('captions are dropped with their probability, anew in every epoch', async () => {
    const { BatchBuilder } = await import('../../lib/training/batch.js');
    const { StatelessRandom } = await import('../../lib/stateless-random.js');
    const builder = (captionDropout: number): InstanceType<typeof BatchBuilder> => new BatchBuilder({ captionDropout } as never, undefined as never, new StatelessRandom(0n), undefined as never);
    const dropped = (probability: number, from: number): boolean[] => Array.from({ length: 5000 }, (_, i) => builder(probability).caption({ index: from + i, caption: 'x' }) === '');
    const share = dropped(0.1, 0).filter(Boolean).length / 5000;
    expect(Math.abs(share - 0.1)).toBeLessThan(5 * Math.sqrt(0.09 / 5000));
    expect(dropped(0.5, 0)).not.toEqual(dropped(0.5, 5000));
    expect(dropped(0, 0).some(Boolean)).toBe(false);
    expect(dropped(1, 0).every(Boolean)).toBe(true);
  });

  test('a pictures is seen once per epoch; held-out ones never', async () => {
    const state = fake();
    const seen = new Map<number, number>();
    const out = await temporaryFolder();
    await run(out, { data: { type: 'folder', path: data, flip: false }, steps: undefined as never, epochs: 4, batchSize: 3 });
    for (const { batch } of state.batches) for (let n = 0; n < batch.samples.length; n++) seen.set(batch.images[n * 3 * 32 * 32]!, (seen.get(batch.images[n * 3 * 32 * 32]!) ?? 0) + 1);
    expect(state.steps.length).toBe(12); // 4 × 9 pictures
    expect(seen.size).toBe(PICTURES - 2);
    expect([...seen.values()]).toEqual(new Array(PICTURES - 2).fill(4));
    expect(metrics(out).at(-2)).toMatchObject({ group: 'train', epoch: 4 });
  });

  test('prior preservation: every second sample is one of the class, with its weight', async () => {
    const state = fake();
    const others = await temporaryFolder();
    cpSync(data, others, { recursive: true });
    await run(await temporaryFolder(), { priorPreservation: { data: { type: 'folder', path: others, caption: 'a colour' }, weight: 0.25 }, validation: false });
    for (const { batch } of state.batches) expect(batch.samples.map(({ weight }) => weight)).toEqual([1, 0.25, 1, 0.25]);
  });

  test('buckets: the pictures of a step have one shape; resumed, the same ones', async () => {
    const folder = await temporaryFolder();
    for (let i = 0; i < 12; i++) await plain(...[[40, 40], [70, 40], [40, 60]][i % 3] as [number, number], [20 * i, 9, 99]).png().toFile(path.join(folder, `${i}.png`));
    writeFileSync(path.join(folder, 'z.png'), 'broken');
    const change: Partial<TrainingConfig> = { data: { type: 'folder', path: folder, caption: 'x' }, buckets: {}, microBatch: 2, validation: { pictures: 3, timesteps: 1 } };
    const state = fake();
    const out = await temporaryFolder();
    await run(out, change);
    const shapes = state.batches.map(({ batch }) => `${batch.width}×${batch.height}`);
    expect(new Set(shapes)).toEqual(new Set(['32×32', '40×24', '24×40']));
    for (let i = 0; i < shapes.length; i += 2) expect(shapes[i]).toBe(shapes[i + 1]); // two micro-batches per step
    for (const { batch } of state.batches) expect(batch.images.length).toBe(2 * 3 * batch.width * batch.height);
    expect(messages('status')).toMatch(/buckets: 24 × 40: \d, 32 × 32: \d, 40 × 24: \d/);
    expect(messages('warning')).toMatch(/z\.png is skipped/);

    const other = await temporaryFolder();
    await interrupted(other, 5, change);
    await run(other, change, { resume: true });
    expect(losses(other)).toEqual(losses(out));
    expect(weights(other, 12)).toEqual(weights(out, 12));
    const mended = await temporaryFolder();
    await interrupted(mended, 5, change);
    await plain(40, 40, [1, 2, 3]).png().toFile(path.join(folder, 'z.png')); // readable by now
    await expectIFError('INVALID_ARGUMENT', () => run(mended, change, { resume: true }), /begun with buckets of 24 × 40: \d, 32 × 32: \d, 40 × 24: \d pictures, now they are 24 × 40/);
    await expectIFError('INVALID_ARGUMENT', () => run(other, { ...change, buckets: { maxRatio: 3 } }, { resume: true }), /differs .* in buckets\.maxRatio/);
    await expectIFError('INVALID_ARGUMENT', async () => run(await temporaryFolder(), { ...change, size: 36 }), /buckets: need a size that is a multiple of 8, got 36/);
    await expectIFError('INVALID_ARGUMENT', async () => run(await temporaryFolder(), { ...change, data: { type: 'emoji', set: 'noto' } }), /buckets: .*every picture is square/);
  });

  test('buckets in stage II: the reduced picture has the same shape', async () => {
    const folder = await temporaryFolder();
    await plain(70, 40, [1, 2, 3]).png().toFile(path.join(folder, 'a.png'));
    const state = fake();
    await run(await temporaryFolder(), { model: { folder: golden('tiny-if-II') }, data: { type: 'folder', path: folder, caption: 'x' }, buckets: {}, validation: false, steps: 1 });
    expect(state.batches[0]!.batch).toMatchObject({ width: 88, height: 48, lowResWidth: 22, lowResHeight: 12 });
    expect(state.batches[0]!.batch.lowRes!.length).toBe(4 * 3 * 22 * 12);
  });

  test('stage II: the reduced picture, with an independent level per sample', async () => {
    const state = fake();
    await run(await temporaryFolder(), { model: { folder: golden('tiny-if-II') }, steps: 20, lowRes: { filter: 'box' } });
    const samples = state.batches.flatMap(({ batch }) => batch.samples);
    const { batch } = state.batches[0]!;
    expect(batch).toMatchObject({ height: 64, lowResHeight: 16, lowResWidth: 16 });
    expect(batch.lowRes!.length).toBe(4 * 3 * 16 * 16);
    for (let n = 0; n < 4; n++) expect(batch.lowRes![n * 3 * 256]).toBe(batch.images[n * 3 * 4096]); // of one colour
    const levels = samples.map(({ noiseLevel }) => noiseLevel);
    expect(levels.every((level) => Number.isInteger(level) && level >= 0 && level < 1000)).toBe(true);
    expect(new Set(levels).size).toBeGreaterThan(60);
    expect(samples.some(({ noiseLevel, timestep }) => noiseLevel !== timestep)).toBe(true);
    for (const { lowResScale, lowResNoiseScale } of samples) expect(lowResScale ** 2 + lowResNoiseScale ** 2).toBeCloseTo(1, 12);
  });
});

describe('resume', () => {
  test('after a stop at any step: the same losses, weights, moments and average', async () => {
    fake();
    const whole = await temporaryFolder();
    await run(whole);
    for (const stop of [1, 4, 7, 11]) {
      const out = await temporaryFolder();
      await interrupted(out, stop);
      expect(checkpoints(out).at(-1)).toBe(`step-${String(stop).padStart(6, '0')}`);
      await run(out, {}, { resume: true });
      expect(messages('status')).toMatch(`continuing after step ${stop}`);
      expect(losses(out)).toEqual(losses(whole));
      expect(weights(out, 12)).toEqual(weights(whole, 12));
    }
  });

  test('metrics of steps after the checkpoint, and half a line, are replaced', async () => {
    fake();
    const whole = await temporaryFolder();
    await run(whole);
    const out = await temporaryFolder();
    await interrupted(out, 9);
    rmSync(path.join(out, 'checkpoints', 'step-000009'), { recursive: true });
    writeFileSync(path.join(out, 'metrics.jsonl'), `${readFileSync(path.join(out, 'metrics.jsonl'), 'utf8')}{"step": 10, "lo`);
    await run(out, {}, { resume: true });
    const comparable = (folder: string): unknown[] => metrics(folder).map(({ step, group, loss, mse }) => [step, group, loss, mse]);
    expect(comparable(out)).toEqual(comparable(whole));
    expect(readdirSync(out).filter((name) => name.startsWith('events.out.tfevents.')).length).toBeGreaterThanOrEqual(1);
  });

  test('half-written checkpoints are passed over with a message', async () => {
    fake();
    const whole = await temporaryFolder();
    await run(whole, { checkpoints: { every: 2, keep: 9 } });
    const out = await temporaryFolder();
    const keep = { checkpoints: { every: 2, keep: 9 } };
    await interrupted(out, 8, keep);
    const dir = (step: number): string => path.join(out, 'checkpoints', `step-00000${step}`);
    rmSync(path.join(dir(8), 'unet_ema.safetensors'));
    truncateSync(path.join(dir(6), 'unet.safetensors'), 3);
    writeFileSync(path.join(dir(4), 'state.json'), '{ "format": 1, "step": 4');
    mkdirSync(path.join(out, 'checkpoints', '.unfinished-step-000010-77'));
    await run(out, keep, { resume: true });
    expect(messages('status')).toMatch('continuing after step 2');
    for (const part of [/step-000010-77 is a checkpoint whose writing was interrupted/, /step-000008 is not a whole checkpoint \(unet_ema\.safetensors is missing\)/, /step-000006 .*3 bytes instead of/, /step-000004 .*not valid JSON/]) expect(messages('warning')).toMatch(part);
    expect(weights(out, 12)).toEqual(weights(whole, 12));
    expect(checkpoints(out)).toEqual(checkpoints(whole));
  });

  test('with nothing to resume from it starts; a folder with a run is not overwritten', async () => {
    fake();
    const out = await temporaryFolder();
    await run(out, {}, { resume: true });
    expect(messages('status')).toMatch(/no checkpoint in .*: starting at the first step/);
    await expectIFError('INVALID_ARGUMENT', () => run(out), /holds a run already: continue it with --resume, or choose another folder/);
    await run(out, {}, { resume: true }); // it is at its end: only the result is written again
    expect(losses(out).length).toBe(12);
    await run(out, { steps: 14 }, { resume: true }); // a constant rate may go on
    expect(losses(out).length).toBe(14);
  });

  test('another configuration is refused, naming the keys that matter', async () => {
    fake();
    const out = await temporaryFolder();
    await interrupted(out, 2);
    const resume = (change: Partial<TrainingConfig>): Promise<void> => run(out, change, { resume: true });
    await expectIFError('INVALID_ARGUMENT', () => resume({ optimizer: { lr: 0.02, beta1: 0.8 }, seed: 1 }), /differs .* in optimizer\.lr, optimizer\.beta1, seed: /);
    await expectIFError('INVALID_ARGUMENT', () => resume({ ema: false }), /in ema: /);
    await expectIFError('INVALID_ARGUMENT', () => resume({ objective: { weighting: { type: 'min_snr' } } }), /in objective\.weighting\.type, objective\.weighting\.gamma/);
    await expectIFError('INVALID_ARGUMENT', () => resume({ validation: false }), /in validation\.pictures: /);
    await expectIFError('INVALID_ARGUMENT', () => resume({ schedule: { type: 'cosine' } }), /in schedule\.type: /);
    await resume({ microBatch: 1, threads: 1, checkpoints: { every: 3, keep: 1 }, validation: { pictures: 2, every: 1 } });
  });

  test('other pictures are refused', async () => {
    fake();
    const out = await temporaryFolder();
    const fewer = await temporaryFolder();
    for (let i = 0; i < 5; i++) await plain(32, 32, [i, i, i]).png().toFile(path.join(fewer, `${i}.png`));
    const change = { data: { type: 'folder' as const, path: fewer, caption: 'x' }, validation: false as const };
    await interrupted(out, 2, change);
    rmSync(path.join(fewer, '3.png'));
    await expectIFError('INVALID_ARGUMENT', () => run(out, change, { resume: true }), /begun with 5 pictures .* now there are 4/);
  });
});

describe('what can go wrong', () => {
  test('the last K checkpoints are kept', async () => {
    fake();
    const out = await temporaryFolder();
    await run(out, { checkpoints: { every: 3, keep: 2 } });
    expect(checkpoints(out)).toEqual(['step-000009', 'step-000012']);
  });

  test.each([NaN, Infinity])('a loss of %s stops before the step, with a diagnosis and the last good weights', async (value) => {
    const state = fake({ mainTerm: (index, step) => (step === 7 && index === 26 ? value : undefined) });
    const out = await temporaryFolder();
    const failure = await run(out).catch((error: unknown) => error as IFError);
    expect(failure).toMatchObject({ code: 'DIVERGED' });
    expect((failure as IFError).message).toMatch(/^step 7: the loss of \d+\.png at timestep \d+ is not finite \(main term (NaN|Infinity), variational term 0\); the learning rate is 0\.0100\. The checkpoint of step 6 has the last good weights\..*a lower optimizer\.lr/);
    expect(state.steps.length).toBe(6);
    expect(checkpoints(out)).toEqual(['step-000004', 'step-000006']);
    expect(weights(out, 6).join()).not.toMatch(/null|NaN/);
  });

  test('an exploding loss and an exploding norm', async () => {
    const exploding = fake({ mainTerm: (_index, step) => (step >= 25 ? 1e4 : undefined) });
    await expectIFError('DIVERGED', async () => run(await temporaryFolder(), { steps: 40 }), /step 25: the loss has exploded: 1\.000e\+4, the mean of the last 24 steps is 0\.\d+; .*checkpoint of step 24/);
    expect(exploding.steps.length).toBe(24);
    fake({ norm: (step) => (step === 3 ? 2e4 : undefined) });
    await expectIFError('DIVERGED', async () => run(await temporaryFolder()), /step 3: the gradient norm 2\.000e\+4 is above optimizer\.normLimit 10000; .*checkpoint of step 2/);
    fake({ norm: (step) => (step === 1 ? NaN : undefined) });
    await expectIFError('DIVERGED', async () => run(await temporaryFolder()), /step 1: the gradient norm is not finite \(NaN\); .*No step was done/);
  });

  test('a full disk: a clear error, no remains, the older checkpoint is whole', async () => {
    const full = (): never => {
      throw new IFError('IO', 'no space is left on the device (ENOSPC)');
    };
    let saves = 0;
    fake({ onSave: () => (++saves === 5 ? full() : undefined) }); // the second part of the second checkpoint
    const out = await temporaryFolder();
    await expectIFError('IO', () => run(out), /the checkpoint of step 8 was not written: no space is left on the device \(ENOSPC\); the checkpoint of step 4 is intact; continue from it with --resume/);
    expect(checkpoints(out)).toEqual(['step-000004']);
    fake();
    await run(out, {}, { resume: true });
    const whole = await temporaryFolder();
    await run(whole);
    expect(weights(out, 12)).toEqual(weights(whole, 12));
  });

  test('unreadable pictures are skipped, named and counted; a run goes on', async () => {
    fake();
    const broken = await temporaryFolder();
    for (let i = 0; i < 6; i++) await plain(32, 32, [40 * i, i, i]).png().toFile(path.join(broken, `${i}.png`));
    writeFileSync(path.join(broken, '2.png'), 'not a picture');
    truncateSync(path.join(broken, '4.png'), 60);
    const out = await temporaryFolder();
    await run(out, { data: { type: 'folder', path: broken, caption: 'x' }, validation: false });
    expect(messages('warning')).toMatch(/2\.png is skipped: .*\(\d so far\)/);
    expect(messages('warning')).toMatch(/4\.png is skipped/);
    expect(messages('warning').split('\n').length).toBe(2);
    expect(metrics(out).at(-1)).toMatchObject({ step: 12, skipped_pictures: 2 });
    for (let i = 0; i < 6; i++) writeFileSync(path.join(broken, `${i}.png`), 'x');
    await expectIFError('NOT_FOUND', async () => run(await temporaryFolder(), { data: { type: 'folder', path: broken, caption: 'x' }, validation: false }), /none of the 6 pictures can be read; the first: /);
  });

  test('names in data that lead out of it: skipped and counted, and only the folder of the run is written to', async () => {
    fake();
    const room = await temporaryFolder();
    const png = await plain(32, 32, [9, 8, 7]).png().toBuffer();
    for (const name of ['pictures', 'shards', 'run', 'cache']) mkdirSync(path.join(room, name));
    writeFileSync(path.join(room, 'outside.png'), png);
    writeFileSync(path.join(room, 'pictures', 'a.png'), png);
    symlinkSync('.', path.join(room, 'pictures', 'circle'));
    writeFileSync(path.join(room, 'pictures', 'metadata.jsonl'), ['a.png', '../outside.png', '../new.png', path.join(room, 'new.png'), 'circle/../../new.png'].map((file_name) => JSON.stringify({ file_name, text: 'x' })).join('\n'));
    writeFileSync(path.join(room, 'shards', 'a.tar'), tar(
      { name: 'a.png', content: png }, { name: 'a.txt', content: 'x' }, { name: '../new.png', content: png }, { name: '../new.txt', content: 'x' }, { name: '/tmp/../new.png', content: png },
    ));
    const everything = (): string[] => readdirSync(room, { recursive: true }).map(String).filter((name) => !/^(run|cache)\b/.test(name)).sort();
    const before = everything();
    for (const [type, path_, skipped] of [['folder', 'pictures', 5], ['webdataset', 'shards', 3]] as const) {
      events = [];
      const out = path.join(room, 'run', type);
      await run(out, { data: { type, path: path.join(room, path_) }, validation: false, steps: 2 }, { cacheDir: path.join(room, 'cache') });
      expect(metrics(out).at(-1)).toMatchObject({ step: 2, skipped_pictures: skipped });
      expect(messages('warning').split('\n').length).toBe(skipped);
      expect(everything()).toEqual(before);
    }
  });

  test('refused before anything is loaded', async () => {
    const state = fake();
    const out = await temporaryFolder();
    const refused = (change: Partial<TrainingConfig>, message: RegExp, code: IFError['code'] = 'INVALID_ARGUMENT'): Promise<void> => expectIFError(code, () => run(path.join(out, 'run'), change), message);
    await refused({ stage: 2 }, /stage: the configuration is for stage 2, but .*tiny-if-I is a stage I/);
    await refused({ stage: 1, model: { folder: golden('tiny-if-II') } }, /stage: .* for stage 1, but .*tiny-if-II is an upscaling stage/);
    await refused({ lowRes: {} }, /lowRes: is for stages II and III/);
    await refused({ size: 34 }, /size: expected a multiple of 4 .*got 34/);
    await refused({ model: { folder: golden('tiny-if-II') }, lowRes: { factor: 7 } }, /lowRes\.factor: expected a divisor of the size 64/);
    const stage1 = (folder: string): Partial<TrainingConfig> => ({ model: { folder: golden('tiny-if-II') }, lowRes: { stage1: { folder } } });
    await refused(stage1(golden('tiny-if-II')), /lowRes\.stage1: .* is an upscaling stage; give a stage I/);
    await refused(stage1('if-emoji'), /lowRes\.stage1: .* reads text of width 128, the text encoder of .*tiny-if-II gives 64/);
    await refused({ model: { folder: 'nowhere' } }, /nowhere: no such folder/, 'NOT_FOUND');
    await refused({ data: { type: 'folder', path: 'nowhere' } }, /nowhere/, 'NOT_FOUND');
    await refused({ data: { type: 'folder', path: out } }, /no usable picture|no .*caption/, 'NOT_FOUND');
    await refused({ validation: { pictures: 11 } }, /validation\.pictures: 11 of 11 pictures would leave none/);
    await refused({ devices: ['cpu', 'cpu:0'] }, /devices: expected each once/);
    await refused({ devices: ['tpu'] }, /device: expected cpu/);
    await refused({ previews: { timesteps: 'smart51' } }, /did you mean "smart50"/);
    await refused({ out: golden('tiny-if-I') }, /is the folder that the run starts from/);
    await refused({ out: path.join(data, '0.png') }, /0\.png/, 'IO');
    expect(state.batches.length).toBe(0);
    expect(existsSync(path.join(out, 'run', 'checkpoints'))).toBe(false);
  });
});

test('decoding never starves the steps', async () => {
  // a step of 30 ms for 4 pictures; decoding runs beside it
  const { Loader, prefetchCapacity } = await import('../../lib/training/loader.js');
  const { FakeDataset } = await import('../support/fake-dataset.js');
  const { SampleOrder } = await import('../../lib/training/sample-order.js');
  const { StatelessRandom } = await import('../../lib/stateless-random.js');
  const random = new StatelessRandom(0n);
  const dataset = new FakeDataset({ length: 50, delay: () => 25 });
  const loader = new Loader({ sources: [{ dataset, order: new SampleOrder(random, Uint32Array.from({ length: 50 }, (_, i) => i), 0), weight: 1 }], size: 8, random, start: 0, capacity: prefetchCapacity(4, 8) });
  await loader.next(4);
  let waited = 0;
  for (let step = 0; step < 20; step++) {
    await new Promise((resolve) => setTimeout(resolve, 30));
    const started = performance.now();
    await loader.next(4);
    waited += performance.now() - started;
  }
  await loader.close();
  expect(waited).toBeLessThan(0.1 * 20 * 30);
});
