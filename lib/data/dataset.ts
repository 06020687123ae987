/** One captioned picture, ready for a step. */
export interface Sample {
  /** Names the picture in messages; unique in its dataset. */
  key: string;
  /** RGB bytes, row by row: 3 · width · height. */
  image: Uint8Array;
  width: number;
  height: number;
  caption: string;
  /** Factor of its loss, at least 0; default 1. Prior preservation gives pictures of the class their own. */
  weight?: number;
}

export interface Shape {
  width: number;
  height: number;
}

/** Of the picture that is wanted, in pixels. */
export interface LoadSampleOptions extends Shape {
  /** Uniform numbers in [0, 1) that belong to this visit: for crop, flip and choice of caption. */
  random: () => number;
  signal?: AbortSignal;
}

/** Captioned pictures by index. `load` may be called again before an earlier call has ended. */
export interface Dataset {
  readonly length: number;
  /** What it is, for messages and the saved configuration. */
  readonly description: string;
  /**
   * Decodes and transforms one picture. The same index, shape and random numbers give the same sample.
   * @param index a whole number from 0 to length − 1
   * @returns undefined when the picture cannot be read: it is then listed in `skipped`
   */
  load(index: number, options: LoadSampleOptions): Promise<Sample | undefined>;
  /**
   * Every caption that `load` may give, repetitions allowed, without decoding a picture: they are encoded before training
   * starts.
   */
  captions(): AsyncIterable<string>;
  /**
   * Width ÷ height of every picture as it is seen upright, from the headers of the files; NaN for those that cannot be read,
   * which are then listed in `skipped`. Absent where every picture is square.
   */
  aspectRatios?(options?: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal }): Promise<Float64Array>;
  close(): Promise<void>;
  /** The pictures that could not be read so far, each once. */
  readonly skipped: { key: string; reason: string }[];
}
