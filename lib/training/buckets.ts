import type { Shape } from '../data/dataset.js';
import { Purpose, type StatelessRandom } from '../stateless-random.js';
import type { VisitOrder } from './loader.js';
import { SampleOrder } from './sample-order.js';

/**
 * The shapes of pictures that a run is trained on: both sides multiples of `multiple`, about size² pixels, the square among
 * them. For every width the height that comes nearest to the area.
 * @param size side of the square
 * @param multiple divides `size`
 * @param maxRatio longer side ÷ shorter side
 * @returns from the highest to the widest
 */
export function bucketShapes(size: number, multiple: number, maxRatio: number): Shape[] {
  const shapes: Shape[] = [];
  for (let width = multiple; width <= size * maxRatio; width += multiple) {
    const height = Math.max(multiple, multiple * Math.round(size * size / (width * multiple)));
    if (Math.max(width / height, height / width) <= maxRatio) shapes.push({ width, height });
  }
  return shapes;
}

/** The bucket whose shape is nearest: the one that cuts least off, as ratios are compared. */
export function nearestBucket(shapes: readonly Shape[], ratio: number): number {
  const distances = shapes.map(({ width, height }) => Math.abs(Math.log(ratio * height / width)));
  return distances.indexOf(Math.min(...distances));
}

export interface Bucket {
  shape: Shape;
  /** Dataset indices. */
  pictures: Uint32Array;
}

/**
 * Sorts pictures into buckets.
 * @param ratios width ÷ height by dataset index; NaN: the picture cannot be read and is left out
 * @param indices of the pictures that are sorted
 * @returns those that hold pictures
 */
export function fillBuckets(shapes: readonly Shape[], ratios: Float64Array, indices: Uint32Array): Bucket[] {
  const pictures: number[][] = shapes.map(() => []);
  for (const index of indices) if (!Number.isNaN(ratios[index])) pictures[nearestBucket(shapes, ratios[index]!)]!.push(index);
  return shapes.map((shape, b) => ({ shape, pictures: Uint32Array.from(pictures[b]!) })).filter((bucket) => bucket.pictures.length > 0);
}

// sources of SampleOrder: 0 and 1 are those of a run without buckets
const FIRST_SOURCE = 2;

/**
 * The order of visits when pictures keep their shape: all pictures of a step come from one bucket, since they are one tensor.
 * The bucket of a step is drawn in proportion to its pictures, and each bucket is visited in permutations of its own, so that
 * on average every picture comes equally often, however few share its shape. It depends on the seed and the position only.
 */
export class BucketOrder implements VisitOrder {
  readonly length: number;
  readonly perShape: Readonly<Record<string, number>>;
  private readonly orders: SampleOrder[];
  /** Per step so far: its bucket, and how many steps before it had the same. */
  private readonly drawn: number[] = [];
  private readonly before: number[] = [];
  private readonly counts: number[];

  /** @param batchSize visits of a step */
  constructor(private readonly random: StatelessRandom, private readonly buckets: readonly Bucket[], private readonly batchSize: number) {
    this.length = buckets.reduce((sum, { pictures }) => sum + pictures.length, 0);
    this.perShape = Object.fromEntries(buckets.map(({ shape: { width, height }, pictures }) => [`${width} × ${height}`, pictures.length]));
    this.orders = buckets.map(({ pictures }, b) => new SampleOrder(random, pictures, FIRST_SOURCE + b));
    this.counts = buckets.map(() => 0);
  }

  shapeAt(position: number): Shape {
    return this.buckets[this.step(position).bucket]!.shape;
  }

  /** For a picture that cannot be read, others of its bucket stand in; then those of the other buckets, cut to its shape. */
  at(position: number, attempt = 0): number {
    const { bucket, before } = this.step(position);
    const order = this.orders[bucket]!;
    const visit = before * this.batchSize + position % this.batchSize;
    if (attempt < order.length) return order.at(visit, attempt);
    let other = (attempt - order.length + position) % (this.length - order.length);
    for (const [b, { pictures }] of this.buckets.entries()) {
      if (b === bucket) continue;
      if (other < pictures.length) return pictures[other]!;
      other -= pictures.length;
    }
    throw new RangeError(`attempt ${attempt} of ${this.length} pictures`);
  }

  private step(position: number): { bucket: number; before: number } {
    const step = Math.floor(position / this.batchSize);
    while (this.drawn.length <= step) {
      let left = Math.floor(this.random.uniform(Purpose.Bucket, this.drawn.length) * this.length);
      const bucket = this.buckets.findIndex(({ pictures }) => (left -= pictures.length) < 0);
      this.drawn.push(bucket);
      this.before.push(this.counts[bucket]!++);
    }
    return { bucket: this.drawn[step]!, before: this.before[step]! };
  }
}
