import { expect, test } from 'vitest';
import { Loader, prefetchCapacity, type LoaderSource } from '../../lib/training/loader.js';
import { holdOut, SampleOrder } from '../../lib/training/sample-order.js';
import { StatelessRandom } from '../../lib/stateless-random.js';
import { expectIFError } from '../support/expect-error.js';
import { FakeDataset, type FakeDatasetOptions } from '../support/fake-dataset.js';

const random = new StatelessRandom(5n);
const source = (dataset: FakeDataset, number = 0, weight = 1): LoaderSource =>
  ({ dataset, order: new SampleOrder(random, Uint32Array.from({ length: dataset.length }, (_, i) => i), number), weight });
const loader = (options: FakeDatasetOptions, start = 0, capacity = 4): { dataset: FakeDataset; loader: Loader } => {
  const dataset = new FakeDataset(options);
  return { dataset, loader: new Loader({ sources: [source(dataset)], size: 8, random, start, capacity }) };
};
const keys = async (from: Loader, count: number): Promise<string[]> => (await from.next(count)).map((sample) => sample.key);

test('every epoch visits every picture once, each in another order', async () => {
  const { loader: one } = loader({ length: 10 });
  const epochs = [await keys(one, 10), await keys(one, 10), await keys(one, 10)];
  for (const epoch of epochs) expect([...epoch].sort()).toEqual(Array.from({ length: 10 }, (_, i) => `p${i}`));
  expect(new Set(epochs.map(String)).size).toBe(3);
  await one.close();
});

test('a loader that starts in the middle goes on with the same pictures and numbers, however fast pictures decode', async () => {
  const { loader: whole, dataset } = loader({ length: 7, delay: (index) => (index * 5) % 11 });
  const all = await whole.next(30);
  const { loader: rest, dataset: other } = loader({ length: 7, delay: (index) => (index * 3) % 7 }, 11, 9);
  const tail = await rest.next(19);
  expect(tail.map(({ index, key }) => [index, key])).toEqual(all.slice(11).map(({ index, key }) => [index, key]));
  expect(all.map(({ index }) => index)).toEqual(Array.from({ length: 30 }, (_, i) => i));
  expect(other.visits.slice(0, 19)).toEqual(dataset.visits.slice(11, 30));
  await Promise.all([whole.close(), rest.close()]);
});

test('decodes ahead, within its bound', async () => {
  const { loader: one, dataset } = loader({ length: 100, delay: () => 5 }, 0, 6);
  expect(dataset.active).toBe(6);
  await one.next(4);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(dataset.visits.length).toBe(10); // four given away, six ahead
  expect(dataset.mostActive).toBeLessThanOrEqual(7); // and the one that is waited for
  const started = performance.now();
  await one.next(6);
  expect(performance.now() - started).toBeLessThan(5); // they were ready
  await one.close();
});

test('the bound is two steps or 64 pictures, less when they are large', () => {
  expect(prefetchCapacity(4, 64)).toBe(64);
  expect(prefetchCapacity(100, 64)).toBe(200);
  expect(prefetchCapacity(4, 2048)).toBe(20);
  expect(prefetchCapacity(64, 2048)).toBe(64);
});

test('an unreadable picture is replaced by the next of its epoch, the same one every time', async () => {
  const { loader: clean } = loader({ length: 5 });
  const { loader: broken, dataset } = loader({ length: 5, unreadable: [1, 3] });
  const expected = await keys(clean, 5);
  const got = await keys(broken, 5);
  for (const [i, key] of expected.entries()) {
    let stand = i;
    while (['p1', 'p3'].includes(expected[stand]!)) stand = (stand + 1) % 5;
    expect(got[i]).toBe(expected[stand]);
    if (stand === i) expect(got[i]).toBe(key);
  }
  expect(dataset.skipped.map(({ key }) => key).sort()).toEqual(['p1', 'p3']);
  await Promise.all([clean.close(), broken.close()]);
  const { loader: none } = loader({ length: 3, unreadable: [0, 1, 2] });
  await expectIFError('NOT_FOUND', () => none.next(1), /fake data: none of the 3 pictures can be read; the first: p\d: broken/);
  await none.close();
});

test('two sources take turns, with their weights', async () => {
  const subject = new FakeDataset({ length: 2 });
  const prior = new FakeDataset({ length: 50 });
  const both = new Loader({ sources: [source(subject, 0), source(prior, 1, 0.5)], size: 8, random, start: 0, capacity: 4 });
  const samples = await both.next(8);
  expect(samples.map(({ weight }) => weight)).toEqual([1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5]);
  expect(new Set([samples[0]!.key, samples[2]!.key])).toEqual(new Set(['p0', 'p1']));
  await both.close();
  await expectIFError('CANCELLED', () => both.next(100), /closed/);
});

test('pictures of another size are a bug of the data set', async () => {
  class Wrong extends FakeDataset {
    override load(index: number): ReturnType<FakeDataset['load']> {
      return super.load(index, { width: 9, height: 9, random: () => 0 });
    }
  }
  const one = new Loader({ sources: [source(new Wrong({ length: 3 }))], size: 8, random, start: 0, capacity: 1 });
  await expectIFError('INTERNAL', () => one.next(1), /expected 8 × 8 RGB pixels, got 9 × 9/);
  await one.close();
});

test('held-out pictures: a part of the whole that depends on the seed only', () => {
  const { training, heldOut } = holdOut(random, 20, 5);
  expect([...training, ...heldOut].sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i));
  expect(heldOut.length).toBe(5);
  expect(holdOut(random, 20, 5)).toEqual({ training, heldOut });
  expect(holdOut(new StatelessRandom(6n), 20, 5).heldOut).not.toEqual(heldOut);
});
