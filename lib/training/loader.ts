import type { Dataset, Sample, Shape } from '../data/dataset.js';
import { IFError } from '../errors.js';
import { Purpose, type StatelessRandom } from '../stateless-random.js';

/** A picture of the run at its place. */
export interface LoadedSample extends Sample {
  /** Global sample index: everything random about it is keyed by this. */
  index: number;
  weight: number;
}

/** Which picture is visited when: a pure function of the position, so that a run can start anywhere. */
export interface VisitOrder {
  /** Pictures. */
  readonly length: number;
  /**
   * The dataset index of visit `position`.
   * @param attempt 0; or n for the picture that stands in after n unreadable ones. From 0 to length − 1 every picture comes once
   */
  at(position: number, attempt: number): number;
  /** What it is cut to; default: a square of the run's size. */
  shapeAt?(position: number): Shape;
  /** Pictures of each shape, e.g. `{ '88 × 48': 3 }`; absent without shapes. */
  readonly perShape?: Readonly<Record<string, number>>;
}

export interface LoaderSource {
  dataset: Dataset;
  order: VisitOrder;
  /** Factor of the loss of its pictures. */
  weight: number;
}

export interface LoaderOptions {
  /** Global sample n comes from source n mod sources. */
  sources: readonly LoaderSource[];
  /** Side of the pictures where the order gives no shape. */
  size: number;
  random: StatelessRandom;
  /** The first global sample. */
  start: number;
  /** Samples that are decoded ahead at most; at least 1. */
  capacity: number;
}

// Pictures of 256 px: 196 kB; of 1024 px: 3.1 MB.
const PREFETCH_BYTES = 256e6;
const PREFETCH_SAMPLES = 64;

/** How many samples to decode ahead: two steps or 64, within 256 MB, but always one step. */
export function prefetchCapacity(batchSize: number, size: number): number {
  return Math.max(batchSize, Math.min(Math.max(2 * batchSize, PREFETCH_SAMPLES), Math.floor(PREFETCH_BYTES / (3 * size * size))));
}

/** Decodes the samples of a run ahead of the steps that need them, in their order, with bounded memory. */
export class Loader {
  private readonly ahead: Promise<LoadedSample>[] = [];
  private readonly closed = new AbortController();
  private nextIndex: number;

  constructor(private readonly options: LoaderOptions) {
    this.nextIndex = options.start;
    this.fill();
  }

  /**
   * The next `count` samples.
   * @throws IFError `NOT_FOUND` when no picture of a source can be read; what the dataset throws
   */
  async next(count: number): Promise<LoadedSample[]> {
    const samples: LoadedSample[] = [];
    while (samples.length < count) {
      const first = this.ahead.shift();
      if (!first) throw new IFError('CANCELLED', 'the loader is closed');
      this.fill();
      samples.push(await first);
    }
    return samples;
  }

  /** Cancels what is being decoded. */
  async close(): Promise<void> {
    this.closed.abort();
    await Promise.allSettled(this.ahead);
  }

  private fill(): void {
    while (this.ahead.length < this.options.capacity && !this.closed.signal.aborted) {
      const sample = this.load(this.nextIndex++);
      sample.catch(() => undefined); // it is thrown by `next`, if its turn comes
      this.ahead.push(sample);
    }
  }

  private async load(index: number): Promise<LoadedSample> {
    const { sources, size, random } = this.options;
    const { dataset, order, weight } = sources[index % sources.length]!;
    const position = Math.floor(index / sources.length);
    const shape = order.shapeAt?.(position) ?? { width: size, height: size };
    for (let attempt = 0; attempt < order.length; attempt++) {
      // each attempt has numbers of its own: what one unreadable picture took does not matter
      const numbers = random.stream(Purpose.Visit, index, attempt * 2 ** 16);
      const sample = await dataset.load(order.at(position, attempt), { ...shape, random: numbers, signal: this.closed.signal });
      if (sample) return { ...checked(sample, shape, dataset), index, weight: weight * (sample.weight ?? 1) };
    }
    const first = dataset.skipped[0];
    throw new IFError('NOT_FOUND', `${dataset.description}: none of the ${order.length} pictures can be read${first ? `; the first: ${first.key}: ${first.reason}` : ''}`);
  }
}

/** @throws IFError `INTERNAL` when a dataset breaks its promise */
export function checked(sample: Sample, { width, height }: Shape, dataset: Dataset): Sample {
  if (sample.width !== width || sample.height !== height || sample.image.length !== 3 * width * height) {
    throw new IFError('INTERNAL', `${dataset.description}: ${sample.key}: expected ${width} × ${height} RGB pixels, got ${sample.width} × ${sample.height} and ${sample.image.length} bytes`);
  }
  return sample;
}
