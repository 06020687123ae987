import { Purpose, type StatelessRandom } from '../stateless-random.js';
import type { VisitOrder } from './loader.js';

/**
 * The order in which the pictures of a source are visited: every epoch a permutation of its own. A pure function of the
 * position, so that a run can start anywhere.
 */
export class SampleOrder implements VisitOrder {
  private epoch = -1;
  private order: Uint32Array = new Uint32Array(0);

  /**
   * @param indices dataset indices of the pictures, at least one
   * @param source number of the source, for permutations of their own
   */
  constructor(private readonly random: StatelessRandom, private readonly indices: Uint32Array, private readonly source: number) {}

  get length(): number {
    return this.indices.length;
  }

  /**
   * The dataset index of visit `position`.
   * @param attempt 0; or n for the picture that stands in after n unreadable ones: the n-th after it in the same epoch
   */
  at(position: number, attempt = 0): number {
    const epoch = Math.floor(position / this.length);
    if (epoch !== this.epoch) {
      this.order = this.random.permutation(Purpose.Shuffle, this.source * 2 ** 32 + epoch, this.length);
      this.epoch = epoch;
    }
    return this.indices[this.order[(position + attempt) % this.length]!]!;
  }
}

/**
 * Takes pictures out of a dataset for validation, by a permutation that depends on the seed only.
 * @returns dataset indices, both in ascending order
 */
export function holdOut(random: StatelessRandom, length: number, count: number): { training: Uint32Array; heldOut: Uint32Array } {
  const order = random.permutation(Purpose.HeldOut, 0, length);
  return { heldOut: order.slice(0, count).sort(), training: order.slice(count).sort() };
}
