import { expect, test } from 'vitest';
import { philox, Purpose, StatelessRandom } from '../lib/stateless-random.js';

// Random123, kat_vectors: philox4x32 with 10 rounds.
test.each([
  { counter: [0, 0, 0, 0], key: [0, 0], out: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
  { counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], key: [0xffffffff, 0xffffffff], out: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
  { counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], key: [0xa4093822, 0x299f31d0], out: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1] },
])('philox gives the known answers of its authors', ({ counter, key, out }) => {
  expect(philox(counter as [number, number, number, number], key as [number, number])).toEqual(out);
});

test('numbers depend on seed, purpose, index (beyond 32 bits) and draw, on nothing else', () => {
  const random = new StatelessRandom(7n);
  const draws = [
    random.uniform(Purpose.Timestep, 5), random.uniform(Purpose.Timestep, 6), random.uniform(Purpose.Timestep, 5, 1),
    random.uniform(Purpose.NoiseLevel, 5), random.uniform(Purpose.Timestep, 2 ** 32 + 5), new StatelessRandom(8n).uniform(Purpose.Timestep, 5),
    new StatelessRandom(7n + (1n << 32n)).uniform(Purpose.Timestep, 5),
  ];
  expect(new Set(draws).size).toBe(draws.length);
  expect(new StatelessRandom(7n).uniform(Purpose.Timestep, 5)).toBe(draws[0]);
  const stream = random.stream(Purpose.Timestep, 5);
  expect([stream(), stream()]).toEqual([draws[0], draws[2]]);
});

test('uniform numbers: mean, variance, and no correlation of neighbours, within five standard errors', () => {
  const random = new StatelessRandom(1n);
  const n = 20_000;
  const u = Array.from({ length: n }, (_, i) => random.uniform(Purpose.Timestep, i) - 0.5);
  const mean = u.reduce((a, b) => a + b, 0) / n;
  const variance = u.reduce((a, b) => a + b * b, 0) / n;
  const neighbours = u.slice(1).reduce((a, b, i) => a + b * u[i]!, 0) / n;
  expect(Math.abs(mean)).toBeLessThan(5 * Math.sqrt(1 / 12 / n));
  expect(Math.abs(variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / n));
  expect(Math.abs(neighbours)).toBeLessThan(5 / 12 / Math.sqrt(n));
  expect(u.every((x) => x >= -0.5 && x < 0.5)).toBe(true);
});

test('permutations: every index once, another one each epoch, every first place about equally often', () => {
  const random = new StatelessRandom(3n);
  expect([...random.permutation(Purpose.Shuffle, 0, 100)].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
  expect(random.permutation(Purpose.Shuffle, 0, 100)).not.toEqual(random.permutation(Purpose.Shuffle, 1, 100));
  const first = new Array<number>(4).fill(0);
  for (let epoch = 0; epoch < 4000; epoch++) first[random.permutation(Purpose.Shuffle, epoch, 4)[0]!]!++;
  for (const count of first) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(4000 * 0.25 * 0.75));
  expect(random.permutation(Purpose.Shuffle, 0, 0).length).toBe(0);
});
