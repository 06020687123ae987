/** What a random number is for: streams of different purposes are independent. Values are part of a run's state: never reuse one. */
export const Purpose = {
  Timestep: 1,
  NoiseLevel: 2,
  CaptionDropout: 3,
  Shuffle: 4,
  /** Crop, flip and caption of one visit. */
  Visit: 5,
  HeldOut: 6,
  /** Seeds of stage I's samples as low-resolution pictures. */
  LowResolution: 7,
  /** Shape of the pictures of a step. */
  Bucket: 8,
} as const;
export type Purpose = (typeof Purpose)[keyof typeof Purpose];

const ROUNDS = 10;
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const KEY_STEP_0 = 0x9e3779b9; // the golden ratio
const KEY_STEP_1 = 0xbb67ae85; // √3 − 1

/** The upper 32 bits of a 32 × 32 bit product. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0;
}

/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 bits that depend on a counter and
 * a key only.
 * @param counter four 32-bit words
 * @param key two 32-bit words
 */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, Math.imul(MULTIPLIER_1, c2) >>> 0, (high0 ^ c3 ^ k1) >>> 0, Math.imul(MULTIPLIER_0, c0) >>> 0];
    k0 = (k0 + KEY_STEP_0) >>> 0;
    k1 = (k1 + KEY_STEP_1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * Random numbers without a state: each is a function of (seed, purpose, index, draw), so that any order of asking, any
 * split of a batch, and a run that starts again in the middle give the same numbers.
 */
export class StatelessRandom {
  private readonly key: readonly [number, number];

  /** @param seed 64 bits */
  constructor(seed: bigint) {
    this.key = [Number(seed & 0xffffffffn), Number((seed >> 32n) & 0xffffffffn)];
  }

  /**
   * Uniform in [0, 1), 53 bits.
   * @param index which item, e.g. the global sample index: a whole number from 0 to 2^53 − 1
   * @param draw which number of that item, from 0 to 2^32 − 1
   */
  uniform(purpose: Purpose, index: number, draw = 0): number {
    const [a, b] = philox([draw, purpose, index >>> 0, Math.floor(index / 2 ** 32)], this.key);
    return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;
  }

  /** The numbers of one item one after another, from `draw` on. */
  stream(purpose: Purpose, index: number, draw = 0): () => number {
    let next = draw;
    return () => this.uniform(purpose, index, next++);
  }

  /**
   * A permutation of 0 … length − 1, uniform among all (Fisher & Yates).
   * @param index which permutation, e.g. the epoch
   */
  permutation(purpose: Purpose, index: number, length: number): Uint32Array {
    const order = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor(this.uniform(purpose, index, i) * (i + 1));
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}
