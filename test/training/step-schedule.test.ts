import { expect, test } from 'vitest';
import { emaDecay, learningRateFactor } from '../../lib/training/step-schedule.js';

const factors = (type: 'constant' | 'linear' | 'cosine', warmup: number, steps: number): number[] =>
  Array.from({ length: steps }, (_, i) => learningRateFactor({ type, warmup }, i + 1, steps));

test('warm-up, then constant, linear or cosine', () => {
  expect(factors('constant', 4, 6)).toEqual([0.25, 0.5, 0.75, 1, 1, 1]);
  expect(factors('linear', 2, 6)).toEqual([0.5, 1, 1, 0.75, 0.5, 0.25]);
  factors('cosine', 0, 4).forEach((factor, i) => expect(factor).toBeCloseTo([1, 0.5 + Math.SQRT1_2 / 2, 0.5, 0.5 - Math.SQRT1_2 / 2][i]!, 12));
  expect(learningRateFactor({ type: 'linear', warmup: 0 }, 11, 10)).toBe(0); // beyond the end
  expect(factors('constant', 10, 3)).toEqual([0.1, 0.2, 0.3]);
});

test('the decay of the average: (1 + n) / (10 + n) of n steps done, up to its value', () => {
  expect(emaDecay(0.9999, 1)).toBe(0.1);
  expect(emaDecay(0.9999, 91)).toBe(0.91);
  expect(emaDecay(0.9, 92)).toBe(0.9);
  expect(emaDecay(0.9999, 1e6)).toBe(0.9999);
});
