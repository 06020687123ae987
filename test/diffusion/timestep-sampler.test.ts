import { expect, test } from 'vitest';
import { drawTimestep, type TimestepSampling } from '../../lib/diffusion/timestep-sampler.js';

const T = 1000;

/** Probability of every timestep, from a fine grid of u. */
function histogram(sampling: TimestepSampling, points: number): number[] {
  const counts = new Array<number>(T).fill(0);
  for (let i = 0; i < points; i++) counts[drawTimestep(sampling, T, (i + 0.5) / points)]! += 1 / points;
  return counts;
}

test.each<{ sampling: TimestepSampling; likely: [number, number] }>([
  { sampling: { type: 'earlier', portion: 0.25, multiplier: 5 }, likely: [0, 250] },
  { sampling: { type: 'later', portion: 0.25, multiplier: 5 }, likely: [750, 1000] },
  { sampling: { type: 'range', begin: 0.25, end: 0.75, multiplier: 5 }, likely: [250, 750] },
  { sampling: { type: 'range', begin: 0.2, end: 0.4, multiplier: 0 }, likely: [200, 400] },
])('$sampling.type: the chosen timesteps are multiplier times as likely', ({ sampling, likely: [begin, end] }) => {
  const multiplier = (sampling as { multiplier: number }).multiplier;
  const unit = 1 / (T + (end - begin) * (multiplier - 1));
  const points = 400_000;
  histogram(sampling, points).forEach((p, t) => {
    expect(Math.abs(p - unit * (t >= begin && t < end ? multiplier : 1)), `t = ${t}`).toBeLessThanOrEqual(2 / points);
  });
});

test('uniform, and cubic: P(t < k) = P(1 − u³ < k/T)', () => {
  histogram({ type: 'uniform' }, 100 * T).forEach((p) => expect(p).toBeCloseTo(1 / T, 9));
  const cumulative = histogram({ type: 'cubic' }, 1_000_000).map(((sum) => (p: number) => (sum += p))(0));
  for (const k of [1, 100, 500, 999]) expect(cumulative[k - 1]!).toBeCloseTo(1 - Math.cbrt(1 - k / T), 5);
});

test('the ends of u stay inside', () => {
  const almostOne = 1 - 2 ** -53;
  for (const sampling of [
    { type: 'uniform' }, { type: 'cubic' }, { type: 'earlier', portion: 0.25, multiplier: 5 }, { type: 'later', portion: 0.25, multiplier: 5 },
    { type: 'later', portion: 1, multiplier: 5 }, { type: 'range', begin: 0, end: 1, multiplier: 3 },
  ] as TimestepSampling[]) {
    for (const u of [0, almostOne]) {
      const t = drawTimestep(sampling, T, u);
      expect(Number.isInteger(t) && t >= 0 && t < T, `${sampling.type} ${u}: ${t}`).toBe(true);
    }
  }
});
