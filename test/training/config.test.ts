import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { defineConfig, type TrainingConfig } from '../../lib/training/config.js';
import { loadConfigFile, readTrainingConfig } from '../../lib/training/config-file.js';
import { resolveConfig, setValue } from '../../lib/training/resolve-config.js';
import { expectIFError } from '../support/expect-error.js';

const minimal: TrainingConfig = defineConfig({ model: { folder: 'if-emoji' }, data: { type: 'folder', path: 'pictures' }, steps: 10 });
const resolve = (config: unknown): ReturnType<typeof resolveConfig> => resolveConfig(config, 'test.ts', 'runs/test');
/** The minimal configuration with some keys changed; of any type, as JavaScript would give it. */
const changed = (change: Record<string, unknown>): unknown => ({ ...minimal, ...change });

describe('defaults', () => {
  test('those of the field', () => {
    expect(resolve(minimal)).toEqual({
      model: { folder: 'if-emoji', fromScratch: false, trainTextEncoder: false },
      data: { type: 'folder', path: 'pictures', crop: 'random', flip: true },
      captionDropout: 0.1,
      objective: { loss: 'mse', huberDelta: 1, weighting: { type: 'none' }, timesteps: { type: 'uniform' }, noise: { offset: 0, pyramidDiscount: 0, inputPerturbation: 0 } },
      optimizer: { lr: 1e-4, weightDecay: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1, normLimit: 1e4 },
      schedule: { type: 'constant', warmup: 0 },
      batchSize: 4, steps: 10, ema: { decay: 0.9999 },
      validation: { timesteps: 8, every: 500 }, previews: { every: 500, timesteps: 25, seed: 0 }, checkpoints: { every: 500, keep: 3 },
      seed: 0, dtype: 'bf16', precision: 'default', gradientCheckpointing: false, devices: ['cpu'], threads: 0, out: 'runs/test', saveDtype: 'f32',
    });
  });
  test('of a variant, when only its type is given; undefined counts as absent', () => {
    expect(resolve(changed({ objective: { weighting: { type: 'min_snr' }, timesteps: { type: 'range', end: 0.5 } }, captionDropout: undefined }))).toMatchObject({
      objective: { weighting: { type: 'min_snr', gamma: 5 }, timesteps: { type: 'range', begin: 0.25, end: 0.5, multiplier: 5 } }, captionDropout: 0.1,
    });
    expect(resolve(changed({ buckets: {}, priorPreservation: undefined }))).toMatchObject({ buckets: { maxRatio: 2 } });
    expect(resolve(changed({ priorPreservation: { data: { type: 'folder', path: 'class', caption: 'a dog' }, generate: { timesteps: 'smart50' } } }))).toMatchObject({ priorPreservation: { generate: { pictures: 200, timesteps: 'smart50' }, weight: 1 } });
    expect(resolve(changed({ ema: false, validation: false, previews: false }))).toMatchObject({ ema: false, validation: false, previews: false });
  });
});

describe('refused, naming key, expected and got', () => {
  test.each<[string, unknown, RegExp]>([
    ['no object', 3, /test\.ts: expected an object, got 3/],
    ['no model', { data: minimal.data, steps: 1 }, /model: expected an object, got nothing \(it is required\)/],
    ['no data', { model: minimal.model, steps: 1 }, /data: expected an object with a type \(folder, emoji, parquet, webdataset\), got nothing/],
    ['unknown key', changed({ optimiser: {} }), /unknown key "optimiser"; did you mean "optimizer"\?/],
    ['unknown nested key', changed({ optimizer: { learningrate: 1 } }), /unknown key "optimizer\.learningrate" \(known: lr, weightDecay/],
    ['near nested key', changed({ optimizer: { weight_decay: 1 } }), /did you mean "weightDecay"\?/],
    ['key of another variant', changed({ objective: { weighting: { type: 'debiased', gamma: 5 } } }), /unknown key "objective\.weighting\.gamma" \(known: maxWeight\)/],
    ['unknown variant', changed({ data: { type: 'folders' } }), /data\.type: expected "folder", "emoji", "parquet" or "webdataset", got "folders"/],
    ['range', changed({ optimizer: { lr: -1 } }), /optimizer\.lr: expected a number from 1e-12 to 10, got -1/],
    ['NaN', changed({ optimizer: { lr: NaN } }), /optimizer\.lr: .*got NaN/],
    ['text for a number', changed({ batchSize: '4' }), /batchSize: expected a whole number from 1 to 65536, got "4"/],
    ['fraction', changed({ batchSize: 1.5 }), /got 1\.5/],
    ['choice', changed({ dtype: 'f16' }), /dtype: expected "f32" or "bf16", got "f16"/],
    ['boolean', changed({ gradientCheckpointing: 1 }), /gradientCheckpointing: expected true or false, got 1/],
    ['function', changed({ out: () => 'x' }), /out: expected text, got a function/],
    ['list', changed({ previews: { prompts: 'a cat' } }), /previews\.prompts: expected a list, got "a cat"/],
    ['list item', changed({ previews: { prompts: ['a', 3] } }), /previews\.prompts\.1: expected text, got 3/],
    ['true for false', changed({ ema: true }), /ema: expected an object, got true/],
    ['steps and epochs', changed({ epochs: 3 }), /steps, epochs: expected one of them, got both/],
    ['neither', changed({ steps: undefined }), /steps, epochs: expected one of them, got none/],
    ['a network for trained weights', changed({ model: { folder: 'x', unet: {} } }), /model\.unet: only a model from scratch/],
    ['an encoder without weights', changed({ model: { folder: 'x', fromScratch: true, textEncoder: {} } }), /model\.textEncoder: needs model\.fromScratch and model\.trainTextEncoder/],
    ['type of a trained encoder', changed({ model: { folder: 'x', trainTextEncoder: true, textDtype: 'int8' } }), /model\.textDtype: /],
    ['empty range', changed({ objective: { timesteps: { type: 'range', begin: 0.8 } } }), /expected begin < end, got 0\.8 and 0\.75/],
    ['samples of stage I without embeddings', changed({ model: { folder: 'x', trainTextEncoder: true }, lowRes: { stage1: { folder: 'y' } } }), /lowRes\.stage1: reads the embeddings/],
    ['square pictures in buckets', changed({ buckets: {}, priorPreservation: { data: { type: 'folder', path: 'class', caption: 'a dog' } } }), /buckets: leave it out with priorPreservation/],
    ['ratio of buckets', changed({ buckets: { maxRatio: 0.5 } }), /buckets\.maxRatio: expected a number from 1 to 16, got 0\.5/],
    ['class pictures of another source', changed({ priorPreservation: { data: { type: 'webdataset', path: 'a.tar' }, generate: {} } }), /priorPreservation\.generate: needs data of type "folder" with a caption/],
    ['class pictures without a prompt', changed({ priorPreservation: { data: { type: 'folder', path: 'class' }, generate: {} } }), /priorPreservation\.generate: needs data of type "folder" with a caption/],
    ['the class in the folder of the subject', changed({ priorPreservation: { data: { type: 'folder', path: 'pictures/class', caption: 'a dog' } } }), /priorPreservation\.data: pictures\/class and the folder of the subject, pictures, hold the same pictures/],
    ['the subject in the folder of the class', changed({ priorPreservation: { data: { type: 'folder', path: './', caption: 'a dog' } } }), /hold the same pictures/],
    ['stage I of class pictures without a folder', changed({ priorPreservation: { data: { type: 'folder', path: 'class', caption: 'a dog' }, generate: { stage1: {} } } }), /generate\.stage1\.folder: expected text, got nothing/],
    ['devices', changed({ devices: ['cpu:0', 'cpu:1', 'cpu:0'] }), /devices: expected each once/],
    ['uneven devices', changed({ devices: ['cpu:0', 'cpu:1', 'cpu:2'] }), /batchSize: expected a multiple of the 3 devices, got 4/],
    ['micro-batch', changed({ microBatch: 3 }), /microBatch: expected a divisor of the 4 pictures/],
    ['warm-up', changed({ schedule: { type: 'cosine', warmup: 10 } }), /schedule\.warmup: expected fewer than the 10 steps/],
  ])('%s', (_name, config, message) => expectIFError('INVALID_ARGUMENT', () => resolve(config), message));
});

describe('--set', () => {
  const set = (...assignments: string[]): ReturnType<typeof resolveConfig> => resolve(assignments.reduce<unknown>(setValue, minimal));
  test('is typed by the schema, in order, and leaves the original alone', () => {
    const before = structuredClone(minimal);
    expect(set('optimizer.lr=1e-5', 'dtype=f32', 'precision=exact', 'stage=2', 'previews.prompts=["a = b","c"]', 'previews.timesteps=super27', 'model.folder=a b=c')).toMatchObject({
      optimizer: { lr: 1e-5, weightDecay: 0.01 }, dtype: 'f32', precision: 'exact', stage: 2, previews: { prompts: ['a = b', 'c'], timesteps: 'super27' }, model: { folder: 'a b=c' },
    });
    expect(minimal).toEqual(before);
    expect(set('previews.timesteps=7')).toMatchObject({ previews: { timesteps: 7 } });
    expect(set('ema=false')).toMatchObject({ ema: false });
    expect(set('ema=false', 'ema.decay=0.5')).toMatchObject({ ema: { decay: 0.5 } });
    expect(set('objective.weighting.type=min_snr', 'objective.weighting.gamma=3')).toMatchObject({ objective: { weighting: { type: 'min_snr', gamma: 3 } } });
    expect(set('data.flip=false')).toMatchObject({ data: { path: 'pictures', flip: false } });
    expect(set('data.type=webdataset', 'data.path=["a.tar", "b.tar"]').data).toMatchObject({ path: ['a.tar', 'b.tar'] });
    expect(set('data.type=webdataset', 'data.path=a.tar').data).toMatchObject({ path: 'a.tar' });
    expect(set('data.type=emoji', 'data.set=noto').data).toEqual({ type: 'emoji', set: 'noto', split: 'train', flip: false });
    expect(set('model.fromScratch=true', 'model.unet.block_out_channels=[32, 64]', 'model.unet.act_fn=silu')).toMatchObject({ model: { unet: { block_out_channels: [32, 64], act_fn: 'silu' } } });
  });
  test.each<[string, RegExp]>([
    ['optimizer.lr', /--set: expected KEY=VALUE/],
    ['optimizer.lr=', /--set: optimizer\.lr: expected a number from 1e-12 to 10, got ""/],
    ['optimizer.lr=fast', /got "fast"/],
    ['optimiser.lr=1', /--set: unknown key "optimiser"; did you mean "optimizer"/],
    ['optimizer.rate=1', /unknown key "optimizer\.rate"/],
    ['optimizer.lr.x=1', /optimizer\.lr: it has no key "x"/],
    ['optimizer=1', /optimizer: set its keys one by one, e\.g\. optimizer\.lr=…/],
    ['gradientCheckpointing=yes', /gradientCheckpointing: expected true or false, got "yes"/],
    ['batchSize=1.5', /batchSize: expected a whole number/],
    ['data.type=zip', /data\.type: expected "folder", "emoji", "parquet" or "webdataset", got "zip"/],
  ])('%s', (assignment, message) => expectIFError('INVALID_ARGUMENT', () => set(assignment), message));
});

describe('files', () => {
  let dir: string;
  const file = (name: string, content: string): string => {
    writeFileSync(path.join(dir, name), content);
    return path.join(dir, name);
  };
  beforeAll(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'if-config-'));
    mkdirSync(path.join(dir, 'folder.ts'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test('TypeScript that shares by import and spread, and knows the package by name', async () => {
    file('base.ts', `import type { TrainingConfig } from 'deepfloyd-if';
      export const base = { model: { folder: 'if-emoji' }, data: { type: 'folder', path: 'a' }, steps: 5 } satisfies TrainingConfig;`);
    const config = file('fast.ts', `import { defineConfig } from 'deepfloyd-if';
      import { base } from './base';
      export default defineConfig({ ...base, optimizer: { lr: 2e-4 as number } });`);
    expect(await readTrainingConfig(config, ['steps=7'])).toMatchObject({ data: { path: 'a' }, steps: 7, optimizer: { lr: 2e-4 }, out: path.join('runs', 'fast') });
    file('base.ts', `export const base = { model: { folder: 'if-emoji' }, data: { type: 'folder', path: 'b' }, steps: 5 };`);
    expect(await readTrainingConfig(config)).toMatchObject({ data: { path: 'b' } }); // no stale copy
  });
  test.each([
    ['c.js', 'module.exports = { steps: 1 };'], ['c.mjs', 'export default { steps: 1 };'], ['c.mts', 'export default { steps: 1 as number };'],
    ['c.json', '{ "steps": 1 }'],
  ])('%s', async (name, content) => expect(await loadConfigFile(file(name, content))).toEqual({ steps: 1 }));

  test('what cannot be read: one line', async () => {
    await expectIFError('NOT_FOUND', () => loadConfigFile(path.join(dir, 'none.ts')), /none\.ts: no such file/);
    await expectIFError('INVALID_ARGUMENT', () => loadConfigFile(path.join(dir, 'x.yaml')), /extension \.ts.*x\.yaml/);
    await expectIFError('INVALID_ARGUMENT', () => loadConfigFile(path.join(dir, 'folder.ts')), /is not a file/);
    await expectIFError('INVALID_ARGUMENT', () => loadConfigFile(file('named.ts', 'export const config = 1;')), /has no default export/);
    await expectIFError('FILE_FORMAT', () => loadConfigFile(file('syntax.ts', 'export default {\n  seed: 1,')), /syntax\.ts could not be run: [^\n]*\S at line 2$/);
    await expectIFError('FILE_FORMAT', () => loadConfigFile(file('throws.ts', 'throw new Error("no\\nway"); export default 1')), /could not be run: no$/);
    await expectIFError('FILE_FORMAT', () => loadConfigFile(file('missing.ts', 'import "./nothing"; export default 1')), /could not be run: [^\n]*nothing[^\n]*$/);
    await expectIFError('FILE_FORMAT', () => loadConfigFile(file('bad.json', '{ "steps": }')), /line 1, column 12/);
  });
});
