// From a checkpoint of a real (tiny) run to a diffusers folder: the same bytes as the run's own result.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TrainingConfig } from '../../lib/training/config.js';
import { publish } from '../../lib/training/publish.js';
import { resolveConfig } from '../../lib/training/resolve-config.js';
import { train } from '../../lib/training/trainer.js';
import { inspect, isSound } from '../../lib/weights/inspect.js';
import { expectIFError } from '../support/expect-error.js';
import { plain } from '../support/pictures.js';
import { golden, readSafetensors } from '../support/safetensors.js';

const WEIGHTS = 'unet/diffusion_pytorch_model.safetensors';
let dir: string;
const at = (...parts: string[]): string => path.join(dir, ...parts);
const step = (run: string, n: number): string => at(run, 'checkpoints', `step-${String(n).padStart(6, '0')}`);
const json = (file: string): Record<string, unknown> => JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
const expectSameFile = (a: string, b: string): void => expect(readFileSync(a).equals(readFileSync(b)), `${a} and ${b} are the same`).toBe(true);

/** Files below a folder, without those that only a run has. */
function files(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => statSync(path.join(folder, name)).isFile() && !/^(checkpoints|previews)|metrics\.jsonl|tfevents|training_config/.test(name)).sort();
}
async function run(name: string, model: TrainingConfig['model'], change: Partial<TrainingConfig> = {}): Promise<void> {
  const config: TrainingConfig = {
    model, data: { type: 'folder', path: at('data') }, size: 16, steps: 3, batchSize: 1, previews: false, validation: false, checkpoints: { every: 2, keep: 5 },
    optimizer: { lr: 1e-3 }, ema: { decay: 0.5 }, dtype: 'f32', out: at(name), ...change,
  };
  await train(resolveConfig(config, 'test', at(name)), { cacheDir: at('cache') });
}

beforeAll(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'if-publish-'));
  mkdirSync(at('data'));
  for (let i = 0; i < 2; i++) await plain(32, 32, [90 * i, 40, 200]).png().toFile(at('data', `${i}.png`));
  writeFileSync(at('data', 'metadata.jsonl'), [0, 1].map((i) => JSON.stringify({ file_name: `${i}.png`, text: `colour ${i}` })).join('\n'));
  cpSync(golden('tiny-if-I'), at('base'), { recursive: true });
  await run('plain', { folder: at('base') }, { objective: { variance: 'fixed' } });
  await run('both', { folder: at('base'), trainTextEncoder: true }, { saveDtype: 'bf16', ema: false });
}, 300_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('the last checkpoint', () => {
  test.each(['plain', 'both'])('gives the folder that the run %s ended with, bit for bit', async (name) => {
    await publish(at(name), at('out'), { force: true });
    expect(files(at('out'))).toEqual(files(at(name)));
    for (const file of files(at(name))) expectSameFile(at('out', file), at(name, file));
    expect(isSound(await inspect(at('out')))).toBe(true);
  });

  test('the weights are the averaged ones where there are any, in float32 those of the checkpoint', async () => {
    await publish(step('plain', 3), at('ema'), { saveKeys: ['unet'] });
    const written = readSafetensors(at('ema', WEIGHTS));
    for (const [name, { data }] of readSafetensors(path.join(step('plain', 3), 'unet_ema.safetensors'))) expect(Buffer.from(written.get(name)!.data.buffer).equals(Buffer.from(data.buffer)), name).toBe(true);
    const last = readSafetensors(path.join(step('plain', 3), 'unet.safetensors'));
    expect(written.get('conv_out.weight')!.data).not.toEqual(last.get('conv_out.weight')!.data);
    expect(readdirSync(at('ema')).sort()).toEqual(['model_index.json', 'scheduler', 'unet']);
    expect(json(at('ema', 'model_index.json'))).toMatchObject({ text_encoder: [null, null], tokenizer: [null, null], unet: ['diffusers', 'UNet2DConditionModel'] });
    expect(json(at('ema', 'scheduler', 'scheduler_config.json'))).toMatchObject({ variance_type: 'fixed_small', prediction_type: 'epsilon' });
  });

  test('another type, in shards; an older checkpoint', async () => {
    await publish(step('plain', 2), at('half'), { dtype: 'f16', maxShardBytes: 500_000 });
    expect(readdirSync(at('half', 'unet')).filter((name) => name.includes('-of-')).length).toBeGreaterThan(3);
    expect(json(at('half', 'text_encoder', 'config.json'))).toMatchObject({ dtype: 'float16' });
    const report = await inspect(at('half'));
    expect(isSound(report)).toBe(true);
    expect(Object.keys(report.components.find(({ name }) => name === 'unet')!.dtypes!)).toEqual(['f16']);
  });
});

describe('without the folder that the run started from', () => {
  test('the checkpoint alone is enough for what was trained', async () => {
    renameSync(at('base'), at('moved'));
    try {
      await publish(at('plain'), at('alone'), { saveKeys: ['unet'] });
      for (const file of [WEIGHTS, 'unet/config.json', 'scheduler/scheduler_config.json']) expectSameFile(at('alone', file), at('plain', file));
      await expectIFError('NOT_FOUND', () => publish(at('plain'), at('none')), 'where the run started', '--save-keys unet');
      await expectIFError('NOT_FOUND', () => publish(at('both'), at('none')), 'text encoder or tokenizer');
      expect(existsSync(at('none'))).toBe(false);
    } finally {
      renameSync(at('moved'), at('base'));
    }
  });
});

describe('what is refused', () => {
  const copied = (change: (folder: string) => void): string => {
    rmSync(at('copy'), { recursive: true, force: true });
    cpSync(step('plain', 3), at('copy'), { recursive: true });
    change(at('copy'));
    return at('copy');
  };
  const state = (folder: string, change: Record<string, unknown>): void => writeFileSync(path.join(folder, 'state.json'), JSON.stringify({ ...json(path.join(folder, 'state.json')), ...change }));

  test('no checkpoint', async () => {
    await expectIFError('NOT_FOUND', () => publish(at('data'), at('none')), 'expected a checkpoint');
    await expectIFError('NOT_FOUND', () => publish(at('nowhere'), at('none')), 'no such folder');
  });
  test('damaged ones', async () => {
    await expectIFError('FILE_FORMAT', () => publish(copied((folder) => rmSync(path.join(folder, 'unet_ema.safetensors'))), at('none')), 'unet_ema.safetensors is missing');
    await expectIFError('FILE_FORMAT', () => publish(copied((folder) => writeFileSync(path.join(folder, 'state.json'), '{')), at('none')), 'not a whole checkpoint');
    await expectIFError('FILE_FORMAT', () => publish(copied((folder) => state(folder, { pipeline: {} })), at('none')), 'has no unet/config.json', 'earlier version');
    const { pipeline } = json(path.join(step('plain', 3), 'state.json')) as { pipeline: Record<string, string> };
    const other = JSON.stringify({ ...JSON.parse(pipeline['unet/config.json']!) as object, cross_attention_dim: 32 });
    await expectIFError('WEIGHTS', () => publish(copied((folder) => state(folder, { pipeline: { ...pipeline, 'unet/config.json': other } })), at('none'), { saveKeys: ['unet'] }), 'encoder_hid_proj.weight');
    expect(existsSync(at('none'))).toBe(false);
  });
  test('paths in state.json that lead out of the folder are not followed', async () => {
    const { pipeline } = json(path.join(step('plain', 3), 'state.json')) as { pipeline: Record<string, string> };
    await publish(copied((folder) => state(folder, { pipeline: { ...pipeline, '../escaped.json': 'x', [at('absolute.json')]: 'x' } })), at('safe'), { saveKeys: ['unet'] });
    expect(existsSync(at('escaped.json')) || existsSync(at('absolute.json'))).toBe(false);
    expect(files(at('safe'))).toEqual(['model_index.json', 'scheduler/scheduler_config.json', 'unet/config.json', WEIGHTS]);
  });
});
