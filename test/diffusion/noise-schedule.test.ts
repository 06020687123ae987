import { describe, expect, test } from 'vitest';
import { NoiseSchedule } from '../../lib/diffusion/noise-schedule.js';
import { expectIFError } from '../support/expect-error.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';

const cosine = new NoiseSchedule({ numTrainTimesteps: 1000, betaSchedule: 'squaredcos_cap_v2', betaStart: 1e-4, betaEnd: 0.02 });

describe('the cosine schedule', () => {
  const tables = readSafetensors(golden('schedulers', 'tables.safetensors'));
  // Relative, golden/README.md. A last-bit difference of the cosine's float64 result may move a float32 value by one unit.
  const within = (ours: Float32Array, recorded: Float32Array) => {
    expect(ours.length).toBe(1000);
    ours.forEach((value, t) => expect(Math.abs(value / recorded[t]! - 1), `t = ${t}`).toBeLessThanOrEqual(t === 999 ? 2e-5 : 3e-7));
  };
  test('alphas_cumprod as diffusers', () => within(cosine.alphasCumprod, floats(tables, 'alphas_cumprod')));
  test('betas as diffusers', () => {
    const recorded = floats(tables, 'betas');
    cosine.betas.forEach((beta, t) => expect(Math.abs(beta - recorded[t]!), `t = ${t}`).toBeLessThanOrEqual(3e-7 * recorded[t]!));
  });
});

test('the linear schedules', () => {
  const options = { numTrainTimesteps: 1000, betaStart: 1e-4, betaEnd: 0.02 };
  const linear = new NoiseSchedule({ ...options, betaSchedule: 'linear' });
  expect(linear.betas[0]).toBe(Math.fround(1e-4));
  expect(linear.betas[999]).toBe(Math.fround(0.02));
  expect(linear.betas[500]! - linear.betas[499]!).toBeCloseTo(0.0199 / 999, 8); // float32: 2e-9
  const scaled = new NoiseSchedule({ ...options, betaSchedule: 'scaled_linear' });
  expect(Math.sqrt(scaled.betas[333]!)).toBeCloseTo(0.01 + (Math.sqrt(0.02) - 0.01) / 3, 7); // 333 = 999 / 3
  expect(linear.alphasCumprod[1]).toBeCloseTo((1 - linear.betas[0]!) * (1 - linear.betas[1]!), 7);
});

test('addNoiseCoefficients: the squares add up to one', async () => {
  for (const t of [0, 1, 250, 500, 999]) {
    const { sqrtAlpha, sqrtOneMinusAlpha } = cosine.addNoiseCoefficients(t);
    expect(sqrtAlpha).toBe(Math.sqrt(cosine.alphasCumprod[t]!));
    expect(Math.abs(sqrtAlpha ** 2 + sqrtOneMinusAlpha ** 2 - 1)).toBeLessThanOrEqual(4e-16);
  }
  for (const t of [-1, 1000, 1.5, NaN]) {
    await expectIFError('INVALID_ARGUMENT', () => cosine.addNoiseCoefficients(t), 'from 0 to 999', String(t));
  }
});
