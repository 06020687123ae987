import { describe, expect, test } from 'vitest';
import { Objective, type LossWeighting } from '../../lib/diffusion/objective.js';
import { parseDDPMConfig } from '../../lib/models/config.js';
import { expectIFError } from '../support/expect-error.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';

const cosine = parseDDPMConfig({ beta_schedule: 'squaredcos_cap_v2' }, 'test');
const none: LossWeighting = { type: 'none' };
const plain = new Objective(cosine, undefined, { prediction: 'epsilon', variance: 'fixed', weighting: none });

/** Φ as the tanh approximation of the original code (model/losses.py, approx_standard_normal_cdf). */
const cdf = (x: number): number => 0.5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

describe("the hybrid loss of deep-floyd/IF, from this file's coefficients in float64", () => {
  const recorded = readSafetensors(golden('training', 'hybrid_loss.safetensors'));
  const [x0, noise, output, xt] = ['x_start', 'noise', 'model_output', 'x_t'].map((name) => floats(recorded, name)) as [Float32Array, Float32Array, Float32Array, Float32Array];
  const timesteps = [...(recorded.get('timestep.i64')!.data as BigInt64Array)].map(Number);
  const objective = new Objective(cosine, undefined, { prediction: 'epsilon', variance: 'learned', weighting: none });
  const pixels = 3 * 8 * 8;

  test.each(timesteps.map((t, n) => ({ t, n })))('t = $t', ({ t, n }) => {
    const s = objective.sample({ index: n, timestep: t });
    let mse = 0;
    let variational = 0;
    for (let i = 0; i < pixels; i++) {
      const at = n * pixels + i;
      const m = output[n * 2 * pixels + i]!;
      const v = output[n * 2 * pixels + pixels + i]!;
      const x = s.imageScale * x0[at]! + s.noiseScale * noise[at]!;
      expect(Math.abs(x - xt[at]!)).toBeLessThanOrEqual(1e-6 * (1 + Math.abs(x)));
      mse += (m - (s.targetX0 * x0[at]! + s.targetNoise * noise[at]!)) ** 2 / pixels;
      const mean = s.x0Coef * (s.sampleScale * x + s.outputScale * m) + s.xCoef * x;
      const fraction = (v + 1) / 2;
      const log = fraction * s.maxLog + (1 - fraction) * s.minLog;
      if (s.last) {
        const inverse = Math.exp(-log / 2);
        const upper = cdf((x0[at]! - mean + 1 / 255) * inverse);
        const lower = cdf((x0[at]! - mean - 1 / 255) * inverse);
        const p = x0[at]! < -0.999 ? upper : x0[at]! > 0.999 ? 1 - lower : upper - lower;
        variational -= Math.log2(Math.max(p, 1e-12)) / pixels;
      } else {
        const difference = s.x0Coef * x0[at]! + s.xCoef * x - mean;
        variational += 0.5 * (log - s.trueLog - 1 + Math.exp(s.trueLog - log) + difference ** 2 * Math.exp(-log)) / Math.LN2 / pixels;
      }
    }
    expect(s.weight).toBe(1);
    const within = (ours: number, name: string): void => {
      const value = floats(recorded, name)[n]!;
      expect(Math.abs(ours / value - 1), `${name}: ${ours}, recorded ${value}`).toBeLessThanOrEqual(1e-4); // golden/README.md
    };
    within(mse, 'mse');
    within(s.variationalWeight * variational, 'vb');
    within(s.weight * mse + s.variationalWeight * variational, 'loss');
  });
});

test('v-prediction: target and x0 from it agree with the noised picture', () => {
  const objective = new Objective(cosine, undefined, { prediction: 'v_prediction', variance: 'fixed', weighting: none });
  for (const t of [0, 1, 500, 998]) {
    const s = objective.sample({ index: 0, timestep: t });
    const [x0, noise] = [0.3, -1.2];
    const x = s.imageScale * x0 + s.noiseScale * noise;
    const v = s.targetX0 * x0 + s.targetNoise * noise;
    expect(v).toBeCloseTo(s.imageScale * noise - s.noiseScale * x0, 12);
    expect(s.sampleScale * x + s.outputScale * v).toBeCloseTo(x0, 12);
    expect(s.variationalWeight).toBe(0);
  }
});

describe('weights', () => {
  const weight = (weighting: LossWeighting, t: number, prediction: 'epsilon' | 'v_prediction' = 'epsilon'): number =>
    new Objective(cosine, undefined, { prediction, variance: 'fixed', weighting }).sample({ index: 0, timestep: t }).weight;
  const snr = (t: number): number => {
    const { imageScale, noiseScale } = plain.sample({ index: 0, timestep: t });
    return (imageScale / noiseScale) ** 2;
  };

  test('Min-SNR: γ = 5 against the values of the cosine schedule', () => {
    const five: LossWeighting = { type: 'min_snr', gamma: 5 };
    expect(weight(five, 0)).toBeCloseTo(2.06e-4, 6);
    expect(weight(five, 250)).toBeCloseTo(0.911, 3);
    expect(weight(five, 260)).toBeLessThan(1);
    expect(weight(five, 261)).toBe(1);
    expect(weight(five, 999)).toBe(1);
  });
  test('Min-SNR for v: min(SNR, γ) / (SNR + 1)', () => {
    for (const t of [0, 300, 900]) expect(weight({ type: 'min_snr', gamma: 5 }, t, 'v_prediction')).toBeCloseTo(Math.min(snr(t), 5) / (snr(t) + 1), 12);
  });
  test('debiased: 1 / √SNR, clamped', () => {
    const open: LossWeighting = { type: 'debiased', maxWeight: Infinity };
    expect(weight(open, 999) / 2.03e4).toBeCloseTo(1, 2);
    expect(weight(open, 998) / 642).toBeCloseTo(1, 2);
    expect(weight(open, 960)).toBeCloseTo(16, 0);
    expect(weight({ type: 'debiased', maxWeight: 10 }, 999)).toBe(10);
    expect(weight({ type: 'debiased', maxWeight: 10 }, 500)).toBeCloseTo(1 / Math.sqrt(snr(500)), 12);
  });
  test("a sample's own weight multiplies both terms", () => {
    const objective = new Objective(cosine, undefined, { prediction: 'epsilon', variance: 'learned', weighting: none });
    expect(objective.sample({ index: 0, timestep: 10, weight: 0.5 })).toMatchObject({ weight: 0.5, variationalWeight: 0.5 });
    const short = new Objective({ ...cosine, numTrainTimesteps: 100 }, undefined, { prediction: 'epsilon', variance: 'learned', weighting: none });
    expect(short.sample({ index: 0, timestep: 10 }).variationalWeight).toBe(0.1); // T / 1000
  });
});

test('the low-resolution picture is noised by its own schedule and level', () => {
  const linear = parseDDPMConfig({ beta_schedule: 'linear' }, 'test');
  const objective = new Objective(cosine, linear, { prediction: 'epsilon', variance: 'fixed', weighting: none });
  const s = objective.sample({ index: 3, timestep: 7, noiseLevel: 0 });
  expect(s).toMatchObject({ index: 3, timestep: 7, noiseLevel: 0 });
  expect(s.lowResScale).toBeCloseTo(Math.sqrt(1 - 1e-4), 12);
  expect(s.lowResNoiseScale).toBeCloseTo(0.01, 12);
  expect(plain.sample({ index: 0, timestep: 7 })).toMatchObject({ lowResScale: 1, lowResNoiseScale: 0 });
});

test('values out of range', async () => {
  const upscaler = new Objective(cosine, cosine, { prediction: 'epsilon', variance: 'fixed', weighting: none });
  await expectIFError('INVALID_ARGUMENT', () => plain.sample({ index: 0, timestep: 1000 }), /timestep.*from 0 to 999, got 1000/);
  await expectIFError('INVALID_ARGUMENT', () => plain.sample({ index: 0, timestep: 1.5 }), /got 1.5/);
  await expectIFError('INVALID_ARGUMENT', () => plain.sample({ index: 0, timestep: 1, noiseLevel: 1 }), /none in stage I/);
  await expectIFError('INVALID_ARGUMENT', () => upscaler.sample({ index: 0, timestep: 1 }), /expected a level/);
  await expectIFError('INVALID_ARGUMENT', () => upscaler.sample({ index: 0, timestep: 1, noiseLevel: 1000 }), /noiseLevel.*got 1000/);
});
