import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { addon } from '../../lib/addon.js';
import { parseUNetConfig } from '../../lib/models/config.js';
import { loraParameters, TEXT_TARGETS, UNET_TARGETS } from '../../lib/training/lora.js';
import { checkTrainingPlan, peakBytes, type TrainingPlan } from '../../lib/training/memory-plan.js';
import type { RunConfig } from '../../lib/training/run-config.js';
import { expectIFError } from '../support/expect-error.js';

const configs = JSON.parse(readFileSync('bench/model-configs.json', 'utf8')) as Record<string, unknown>;
const MACHINE = 24e9;

async function plan(name: string, { batch = 1, checkpointing = false, ema = true, replicas = 1 } = {}): Promise<TrainingPlan> {
  const unet = parseUNetConfig(configs[name], name);
  const training = await addon.planTrainer(JSON.stringify(unet), null, { dtype: 'bf16', precision: 'default', checkpointing, ema, lora: null }, batch, unet.sampleSize!, unet.sampleSize!, 77, 'cpu');
  return { replicas, training, encoding: undefined, preview: undefined, lowRes: undefined, checkpointBytes: 0 };
}
const config = (values: Partial<RunConfig>): RunConfig => ({ model: { fromScratch: false }, microBatch: 1, devices: ['cpu:0'], ema: { decay: 0.9999 }, gradientCheckpointing: false, ...values }) as RunConfig;

test('IF-I-L, batch 1, checkpointed, fits into 24 GB with its average; IF-I-M with batch 4 into 9.5 GB', async () => {
  checkTrainingPlan(await plan('IF-I-L', { checkpointing: true }), config({ gradientCheckpointing: true }), MACHINE);
  expect(peakBytes(await plan('IF-I-M', { batch: 4, ema: false }))).toBeLessThan(9.5e9);
});

test('IF-I-XL is refused on 24 GB with its number and what would help', async () => {
  const xl = await plan('IF-I-XL');
  // 4.30 billion parameters: value, gradient, two moments and average in float32
  expect(Math.abs(xl.training.weightBytes / (20 * 4.304e9) - 1)).toBeLessThan(1e-3);
  await expectIFError('OUT_OF_MEMORY', () => checkTrainingPlan(xl, config({}), MACHINE),
    /^training needs 87\.\d GB \(parameters, gradients, moments and average 86\.1 GB, activations \d+ MB\), 24\.0 GB are available: set gradientCheckpointing: true, ema: false, train factors only \(lora\), or train a smaller model$/);
  await expectIFError('OUT_OF_MEMORY', () => checkTrainingPlan({ ...xl, replicas: 2 }, config({ devices: ['cpu:0', 'cpu:1'], microBatch: 2, ema: false, gradientCheckpointing: true }), MACHINE),
    /needs 17\d\.\d GB \(parameters, gradients, moments 86\.1 GB, .* on each of 2 devices\), .*: a smaller microBatch, fewer devices, train factors only \(lora\), or train a smaller model$/);
});

test('the only remedy is a whole sentence', async () => {
  const lora = { rank: 1 } as unknown as RunConfig['lora'];
  const small: TrainingPlan = { replicas: 1, training: { weightBytes: 2e9, activationBytes: 1e6, flops: 0 }, encoding: undefined, preview: undefined, lowRes: undefined, checkpointBytes: 0 };
  await expectIFError('OUT_OF_MEMORY', () => checkTrainingPlan(small, config({ lora, ema: false, gradientCheckpointing: true }), 1e9), /1\.0 GB are available: train a smaller model$/);
});

test('IF-I-XL with LoRA on its bfloat16 weights, batch 1, checkpointed, fits into 24 GB', async () => {
  const unet = parseUNetConfig(configs['IF-I-XL'], 'IF-I-XL');
  const lora = { rank: 16, alpha: 16, dropout: 0, targets: UNET_TARGETS, textTargets: TEXT_TARGETS };
  const training = await addon.planTrainer(JSON.stringify(unet), null, { dtype: 'bf16', precision: 'default', checkpointing: true, ema: true, lora }, 1, 64, 64, 77, 'cpu');
  // 2 bytes a weight, and value, gradient, two moments and average of the factors
  const factors = loraParameters({ ...lora, textEncoder: false }, { unet, text: undefined });
  expect(Math.abs(training.weightBytes / (2 * 4.304e9 + 20 * factors) - 1)).toBeLessThan(1e-3);
  const whole: TrainingPlan = { replicas: 1, training, encoding: undefined, preview: undefined, lowRes: undefined, checkpointBytes: 0 };
  checkTrainingPlan(whole, config({ gradientCheckpointing: true }), MACHINE);
  expect(peakBytes(whole)).toBeLessThan(11e9);
});

test('every phase counts: encoding before training, previews beside it', () => {
  const part = (weightBytes: number, activationBytes: number): TrainingPlan['training'] => ({ weightBytes, activationBytes, flops: 0 });
  const base: TrainingPlan = { replicas: 1, training: part(10e9, 1e9), encoding: undefined, preview: undefined, lowRes: undefined, checkpointBytes: 0 };
  const peak = peakBytes(base);
  expect(peak).toBeGreaterThan(11e9);
  expect(peakBytes({ ...base, encoding: part(5e9, 1e9) })).toBe(peak);
  expect(peakBytes({ ...base, encoding: part(20e9, 1e9) })).toBeGreaterThan(21e9);
  expect(peakBytes({ ...base, preview: part(2e9, 1e9) }) - peak).toBeCloseTo(2e9, -3);
  expect(peakBytes({ ...base, lowRes: part(3e9, 0.1e9) }) - peak).toBeCloseTo(3e9, -3);
  expect(peakBytes({ ...base, replicas: 2 })).toBeGreaterThan(22e9);
});
