import { describe, expect, test } from 'vitest';
import { BucketOrder, bucketShapes, fillBuckets, nearestBucket } from '../../lib/training/buckets.js';
import { Loader } from '../../lib/training/loader.js';
import { StatelessRandom } from '../../lib/stateless-random.js';
import { FakeDataset } from '../support/fake-dataset.js';

const random = new StatelessRandom(3n);

describe('shapes', () => {
  test.each([[64, 8, 2], [64, 8, 3], [256, 32, 2], [32, 8, 1.5], [1024, 32, 2]])('of %i pixels, multiples of %i, ratio up to %d', (size, multiple, maxRatio) => {
    const shapes = bucketShapes(size, multiple, maxRatio);
    expect(shapes).toContainEqual({ width: size, height: size });
    expect(new Set(shapes.map(({ width, height }) => `${width}×${height}`)).size).toBe(shapes.length);
    for (const { width, height } of shapes) {
      expect([width % multiple, height % multiple]).toEqual([0, 0]);
      expect(Math.max(width / height, height / width)).toBeLessThanOrEqual(maxRatio);
      expect(Math.abs(width * height - size * size)).toBeLessThanOrEqual(width * multiple / 2); // half a step of the height
    }
  });
  test('those of stage I', () => {
    expect(bucketShapes(64, 8, 2).map(({ width, height }) => [width, height])).toEqual([[48, 88], [56, 72], [64, 64], [72, 56], [80, 48], [88, 48]]);
    expect(bucketShapes(64, 8, 1)).toEqual([{ width: 64, height: 64 }]);
  });
  test('a picture goes where least of it is cut off', () => {
    const shapes = bucketShapes(64, 8, 2);
    const nearest = (ratio: number): string => { const { width, height } = shapes[nearestBucket(shapes, ratio)]!; return `${width}×${height}`; };
    expect([1, 4 / 3, 3 / 4, 1.7, 16, 1 / 16, 1.05].map(nearest)).toEqual(['64×64', '72×56', '56×72', '80×48', '88×48', '48×88', '64×64']);
    expect(nearest(0.655)).toBe('56×72'); // √(48/88 · 56/72) = 0.651; the mean of the two is 0.662
  });
  test('unreadable pictures and those that are held out are in no bucket', () => {
    const buckets = fillBuckets(bucketShapes(64, 8, 2), Float64Array.of(1, NaN, 1.8, 1, 0.5), Uint32Array.of(0, 1, 2, 4));
    expect(buckets).toEqual([
      { shape: { width: 48, height: 88 }, pictures: Uint32Array.of(4) }, { shape: { width: 64, height: 64 }, pictures: Uint32Array.of(0) }, { shape: { width: 88, height: 48 }, pictures: Uint32Array.of(2) },
    ]);
  });
});

describe('order', () => {
  const ratios = Float64Array.from({ length: 40 }, (_, i) => [1, 1, 1, 1.8, 0.75][i % 5]!);
  const order = (): BucketOrder => new BucketOrder(random, fillBuckets(bucketShapes(64, 8, 2), ratios, Uint32Array.from(ratios.keys())), 4);

  test('a step has one shape, and only pictures of it', () => {
    const one = order();
    for (let step = 0; step < 200; step++) {
      const shapes = Array.from({ length: 4 }, (_, i) => one.shapeAt(4 * step + i));
      expect(new Set(shapes).size).toBe(1);
      const expected = Array.from({ length: 4 }, (_, i) => ratios[one.at(4 * step + i)]);
      expect(new Set(expected).size).toBe(1);
      expect(shapes[0]!.width / shapes[0]!.height).toBeCloseTo(expected[0]!, 0);
    }
  });
  test('every picture comes equally often: exactly within its bucket, on average among buckets', () => {
    const one = order();
    const visits = new Float64Array(40);
    for (let position = 0; position < 40 * 400; position++) visits[one.at(position)]!++;
    for (const ratio of [1, 1.8, 0.75]) {
      const counts = [...visits].filter((_, i) => ratios[i] === ratio);
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
      // binomial over 4,000 steps: for 8 of 40 pictures a standard deviation of 25 steps, that is 12.6 of 400 visits
      expect(Math.abs(counts[0]! - 400)).toBeLessThan(4 * 12.6);
    }
  });
  test('it can begin anywhere', () => {
    const whole = order();
    const all = Array.from({ length: 300 }, (_, position) => [whole.at(position), whole.shapeAt(position)]);
    const rest = order();
    for (let position = 299; position >= 120; position--) expect([rest.at(position), rest.shapeAt(position)]).toEqual(all[position]);
  });
  test('another picture stands in for an unreadable one: first those of its bucket, then all others, each once', () => {
    const one = order();
    for (const position of [0, 5, 77]) {
      const tried = Array.from({ length: one.length }, (_, attempt) => one.at(position, attempt));
      expect(new Set(tried).size).toBe(40);
      const same = tried.filter((index) => ratios[index] === ratios[tried[0]!]);
      expect(tried.slice(0, same.length)).toEqual(same);
    }
    const dataset = new FakeDataset({ length: 40, unreadable: [3, 8, 13, 18, 23, 28, 33, 38] }); // a whole bucket
    const loader = new Loader({ sources: [{ dataset, order: one, weight: 1 }], size: 64, random, start: 0, capacity: 4 });
    return loader.next(80).then((samples) => {
      for (const [i, { width, height, image, key }] of samples.entries()) {
        expect({ width, height }).toEqual(one.shapeAt(i));
        expect(image.length).toBe(3 * width * height);
        if (ratios[one.at(i)] === 1.8) expect(ratios[Number(key.slice(1))]).not.toBe(1.8);
      }
      expect(new Set(samples.map(({ width, height }) => `${width}×${height}`))).toEqual(new Set(['64×64', '88×48', '56×72']));
      return loader.close();
    });
  });
});
