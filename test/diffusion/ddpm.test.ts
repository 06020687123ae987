import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { DdpmStep } from '../../lib/addon.js';
import { DDPMScheduler } from '../../lib/diffusion/ddpm.js';
import { expectIFError } from '../support/expect-error.js';
import { maxAbsoluteError } from '../support/compare.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';
import { TorchRng } from '../support/torch-rng.js';

const cases = JSON.parse(readFileSync(golden('schedulers', 'cases.json'), 'utf8')) as
  Record<string, { config: Record<string, unknown>; timesteps: number[]; noise_seed: number }>;

/** torch.quantile: linear interpolation between the two nearest order statistics. */
function quantile(values: Float32Array, ratio: number): number {
  const sorted = Float32Array.from(values).sort();
  const rank = ratio * (sorted.length - 1);
  const below = sorted[Math.floor(rank)]!;
  return below + (sorted[Math.ceil(rank)]! - below) * (rank - Math.floor(rank));
}

function threshold(x0: Float32Array, c: DdpmStep): Float32Array {
  if (c.threshold === 'none') return x0;
  if (c.threshold === 'clip') return x0.map((v) => Math.min(Math.max(v, -c.clipRange), c.clipRange));
  const s = Math.min(Math.max(quantile(x0.map(Math.abs), c.ratio), 1), c.maxValue);
  return x0.map((v) => Math.min(Math.max(v, -s), s) / s);
}

/** Standard deviation of the noise, from the model's second half where it is learned. */
function deviation(c: DdpmStep, v: number): number {
  if (c.variance === 'fixed') return c.sigma;
  if (c.variance === 'learned') return Math.sqrt(v);
  const f = (v + 1) / 2;
  return Math.exp((f * c.maxLog + (1 - f) * c.minLog) / 2);
}

/** What the native kernel does with the coefficients, for `batch` items. */
function applyStep(c: DdpmStep, x: Float32Array, model: Float32Array, batch: number, noise: Float32Array | undefined): Float32Array {
  const size = x.length / batch;
  const modelSize = model.length / batch;
  const prev = new Float32Array(x.length);
  for (let b = 0; b < batch; b++) {
    const m = model.subarray(b * modelSize, (b + 1) * modelSize);
    const item = x.subarray(b * size, (b + 1) * size);
    const x0 = threshold(item.map((v, i) => c.sampleScale * v + c.outputScale * m[i]!), c);
    for (let i = 0; i < size; i++) {
      const noisy = noise ? deviation(c, m[size + i]!) * noise[b * size + i]! : 0;
      prev[b * size + i] = c.x0Coef * x0[i]! + c.xCoef * item[i]! + noisy;
    }
  }
  return prev;
}

describe('recorded trajectories of diffusers', () => {
  test.each(Object.keys(cases).filter((name) => name.startsWith('ddpm_')))('%s', (name) => {
    const { config, timesteps, noise_seed } = cases[name]!;
    const recorded = readSafetensors(golden('schedulers', `${name}.safetensors`));
    const scheduler = DDPMScheduler.fromConfig(config, name);
    expect(scheduler.timesteps(name === 'ddpm_super27' ? 'super27' : timesteps.length)).toEqual(timesteps);
    const rng = new TorchRng(noise_seed);
    let x = floats(recorded, 'x0');
    timesteps.forEach((_, i) => {
      const step = scheduler.stepCoefficients(timesteps, i);
      x = applyStep(step, x, floats(recorded, `model_output${i}`), 2, step.addNoise ? rng.randn(x.length) : undefined);
      expect(maxAbsoluteError(x, floats(recorded, `x${i + 1}`)), `step ${i}`).toBeLessThanOrEqual(2e-5);
    });
  });
});

const base = { beta_schedule: 'squaredcos_cap_v2' };
const scheduler = (change: object = {}) => DDPMScheduler.fromConfig({ ...base, ...change }, 'scheduler');

test('the last step returns the predicted picture', () => {
  expect(scheduler().stepCoefficients([500, 0], 1)).toMatchObject({ x0Coef: 1, xCoef: 0, addNoise: false });
});

test('a chain of every timestep has the training betas', () => {
  const s = scheduler({ variance_type: 'fixed_large' });
  const all = s.timesteps(1000);
  for (const index of [0, 100, 500, 900]) {
    const beta = s.schedule.betas[all[index]!]!;
    // ᾱ is float32: 1 − ᾱ_t / ᾱ_{t−1} is off by up to two half units, 2^-24 each
    expect(Math.abs(s.stepCoefficients(all, index).sigma ** 2 - beta)).toBeLessThanOrEqual(2 ** -23);
  }
});

test('the variance types bound and match each other', () => {
  const at = (variance_type: string) => scheduler({ variance_type }).stepCoefficients([600, 400, 200], 1);
  expect(at('fixed_small').sigma).toBeLessThan(at('fixed_large').sigma);
  expect(at('fixed_small_log').sigma).toBe(at('fixed_small').sigma);
  expect(at('fixed_large_log').sigma).toBe(at('fixed_large').sigma);
  const range = at('learned_range');
  expect(range.minLog).toBeCloseTo(2 * Math.log(at('fixed_small').sigma), 12);
  expect(range.maxLog).toBeCloseTo(2 * Math.log(at('fixed_large').sigma), 12);
  expect(at('learned').variance).toBe('learned');
  // the last step of a list that does not end at 0 is clamped
  expect(scheduler().stepCoefficients([600, 400, 200], 2)).toMatchObject({ addNoise: true, sigma: 1e-10 });
});

test('the prediction types agree on x0', () => {
  const x0 = 0.3;
  const noise = -1.1;
  for (const t of [1, 500, 990]) {
    const { sqrtAlpha: a, sqrtOneMinusAlpha: s } = scheduler().addNoiseCoefficients(t);
    const x = a * x0 + s * noise;
    const outputs = { epsilon: noise, sample: x0, v_prediction: a * noise - s * x0 };
    for (const [prediction_type, output] of Object.entries(outputs)) {
      const c = scheduler({ prediction_type }).stepCoefficients([t], 0);
      expect(c.sampleScale * x + c.outputScale * output).toBeCloseTo(x0, 10);
    }
  }
});

test('thresholding', () => {
  expect(scheduler().stepCoefficients([5], 0)).toMatchObject({ threshold: 'clip', clipRange: 1 });
  expect(scheduler({ clip_sample: false }).stepCoefficients([5], 0).threshold).toBe('none');
  expect(scheduler({ thresholding: true, dynamic_thresholding_ratio: 0.95, sample_max_value: 1.5 }).stepCoefficients([5], 0))
    .toMatchObject({ threshold: 'dynamic', ratio: 0.95, maxValue: 1.5 });
});

test('learnsVariance', () => {
  expect(scheduler({ variance_type: 'learned_range' }).learnsVariance).toBe(true);
  expect(scheduler().learnsVariance).toBe(false);
});

test('refuses an index or timestep out of range', async () => {
  for (const index of [-1, 2, 0.5, NaN]) {
    await expectIFError('INVALID_ARGUMENT', () => scheduler().stepCoefficients([500, 0], index), 'from 0 to 1', String(index));
  }
  await expectIFError('INVALID_ARGUMENT', () => scheduler().stepCoefficients([1000, 0], 0), '999', '1000');
});
