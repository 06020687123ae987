import type { Dataset, LoadSampleOptions, Sample, Shape } from './dataset.js';
import { decode, readShape, type Unusable } from './decode.js';
import { IFError } from '../errors.js';
import { cover } from './transforms.js';

/** A captioned picture before it is decoded. */
export interface PictureRecord {
  key: string;
  /** At least one. */
  captions: readonly string[];
  /** The bytes of its file, or the path. */
  encoded: Uint8Array | string;
  /** See Sample.weight. */
  weight?: number;
}

/** A picture that cannot be used, by name. */
export interface Skipped extends Unusable {
  key: string;
}

/** Where records come from. */
export interface PictureSource {
  readonly length: number;
  readonly description: string;
  /** What was found but left out when it was opened. */
  readonly leftOut: readonly Skipped[];
  read(index: number, signal?: AbortSignal): Promise<PictureRecord | Skipped>;
  /** See Dataset.captions. */
  captions(): AsyncIterable<string>;
  close(): Promise<void>;
}

export interface PictureOptions {
  /** Where a picture of another shape than is trained on is cut; default `random`. */
  crop?: 'random' | 'center';
  /** Every second visit mirrored left to right; default true. Turn it off when captions say where things are. */
  flip?: boolean;
}

/** The error for data of which no picture is left, with the first reason. */
export function nothingLeft(where: string, leftOut: readonly Skipped[]): IFError {
  const first = leftOut[0];
  return new IFError('NOT_FOUND', `data ${where}: no usable picture`
    + (first ? `: ${leftOut.length} left out, the first: ${first.key}: ${first.reason}` : '; expected .jpg, .png, .webp, .gif, .tif or .avif files'));
}

/** One of several, by a number in [0, 1). */
export function choose<T>(items: readonly T[], uniform: number): T {
  return items[Math.floor(uniform * items.length)]!;
}

/** @throws IFError `INVALID_ARGUMENT` */
export function checkRequest(index: number, length: number, { width, height }: Shape): void {
  if (!(Number.isInteger(index) && index >= 0 && index < length)) {
    throw new IFError('INVALID_ARGUMENT', `dataset: index must be a whole number from 0 to ${length - 1}, got ${index}`);
  }
  for (const side of [width, height]) {
    if (!(Number.isInteger(side) && side >= 1 && side <= 4096)) throw new IFError('INVALID_ARGUMENT', `dataset: width and height must be 1 to 4096 pixels, got ${width} × ${height}`);
  }
}

const READ_AT_A_TIME = 4; // libuv's threads

/** Names of pictures and reasons, each name once. */
export class SkippedList {
  readonly items: Skipped[] = [];
  private readonly keys = new Set<string>();

  add({ key, reason }: Skipped): void {
    if (this.keys.has(key)) return;
    this.keys.add(key);
    this.items.push({ key, reason });
  }
}

/** The pictures of a source, decoded and cut. */
export class PictureDataset implements Dataset {
  private readonly list = new SkippedList();
  private readonly crop: 'random' | 'center';
  private readonly flip: boolean;

  constructor(private readonly source: PictureSource, options: PictureOptions) {
    this.crop = options.crop ?? 'random';
    this.flip = options.flip ?? true;
    for (const skipped of source.leftOut) this.list.add(skipped);
  }

  get length(): number {
    return this.source.length;
  }
  get description(): string {
    return this.source.description;
  }
  get skipped(): { key: string; reason: string }[] {
    return this.list.items;
  }

  /** Draws three numbers: caption, flip, place of the crop. */
  async load(index: number, { width, height, random, signal }: LoadSampleOptions): Promise<Sample | undefined> {
    checkRequest(index, this.length, { width, height });
    const record = await this.source.read(index, signal);
    if ('reason' in record) return this.skip(record);
    const { key, captions, encoded, weight } = record;
    const caption = choose(captions, random());
    const image = await decode(encoded, (pixels) => cover(pixels, { width, height, crop: this.crop, flip: this.flip, random }), signal);
    if ('reason' in image) return this.skip({ key, reason: image.reason });
    return { key, image, width, height, caption, ...(weight === undefined ? {} : { weight }) };
  }

  captions(): AsyncIterable<string> {
    return this.source.captions();
  }

  async aspectRatios({ onProgress, signal }: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal } = {}): Promise<Float64Array> {
    const ratios = new Float64Array(this.length).fill(NaN);
    let next = 0;
    let done = 0;
    const readOn = async (): Promise<void> => {
      while (next < this.length) {
        const index = next++;
        if (signal?.aborted) throw new IFError('CANCELLED', 'reading the shapes of the pictures was cancelled');
        const record = await this.source.read(index, signal);
        const shape = 'reason' in record ? record : await readShape(record.encoded);
        if ('reason' in shape) this.list.add({ key: record.key, reason: shape.reason });
        else ratios[index] = shape.width / shape.height;
        onProgress?.(++done, this.length);
      }
    };
    await Promise.all(Array.from({ length: READ_AT_A_TIME }, readOn));
    return ratios;
  }

  close(): Promise<void> {
    return this.source.close();
  }

  private skip(skipped: Skipped): undefined {
    this.list.add(skipped);
    return undefined;
  }
}
