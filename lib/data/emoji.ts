import { createHash } from 'node:crypto';
import path from 'node:path';
import sharp from 'sharp';
import { IFError } from '../errors.js';
import type { DataContext } from './context.js';
import type { Dataset, LoadSampleOptions, Sample } from './dataset.js';
import type { Unusable } from './decode.js';
import { EMOJI_GROUPS, isHeldOut, loadEmojiSet, type Emoji, type EmojiGroup, type EmojiSetName } from './emoji-set.js';
import { checkRequest, choose, SkippedList } from './picture-dataset.js';
import { PixelCache } from './pixel-cache.js';
import { cut, mirror } from './transforms.js';

export interface EmojiOptions {
  set: EmojiSetName;
  /** `validation`: the twentieth that `train` (the default) does not see. */
  split?: 'train' | 'validation';
  /** Of Unicode's groups; default: all. */
  groups?: readonly EmojiGroup[];
  /** Draw emojis this large and cut a square of the size that is asked for out of them, at a random place; default: not cut. */
  cropFrom?: number;
  /** Every second visit mirrored left to right; default false: there are letters and arrows among them. */
  flip?: boolean;
}

/** Of everything that decides the pixels and is not in a version of a package. */
const RECIPE = 1;
/** Larger ones are drawn when asked for (20 to 300 ms): 1,500 pictures of 1024 × 1024 would take 4.7 GB. */
const LARGEST_CACHED = 256;

/** A square part of an emoji: fractions of its side. */
interface Region { left: number; top: number; side: number }
const WHOLE: Region = { left: 0, top: 0, side: 1 };

/** The part of a view box, which is centred in a square when it is none. */
function partOf(viewBox: string, { left, top, side }: Region): string {
  const [x, y, width, height] = viewBox.split(' ').map(Number) as [number, number, number, number];
  const square = Math.max(width, height);
  return [x - (square - width) / 2 + left * square, y - (square - height) / 2 + top * square, side * square, side * square].join(' ');
}

/** An emoji, or a part of it, on white, square; off the JavaScript thread. */
async function rasterise({ body, viewBox: whole, mirrored }: Emoji, size: number, region = WHOLE): Promise<Uint8Array | Unusable> {
  const viewBox = partOf(whole, mirrored ? { ...region, left: 1 - region.left - region.side } : region);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="${size}" height="${size}" viewBox="${viewBox}">${body}</svg>`;
  try {
    const pixels = await sharp(Buffer.from(svg)).flatten({ background: '#ffffff' }).toColourspace('srgb').raw().toBuffer();
    return mirrored ? mirror(pixels, size) : pixels;
  } catch (error) {
    return { reason: `it cannot be drawn: ${(error as Error).message.trim()}` };
  }
}

class EmojiDataset implements Dataset {
  readonly length: number;
  private readonly list = new SkippedList();
  private readonly caches = new Map<number, Promise<PixelCache | undefined>>();

  constructor(
    readonly description: string,
    private readonly all: readonly Emoji[],
    /** Indices into all. */
    private readonly chosen: readonly number[],
    private readonly versions: string,
    private readonly options: EmojiOptions,
    private readonly context: DataContext,
  ) {
    this.length = chosen.length;
  }

  get skipped(): { key: string; reason: string }[] {
    return this.list.items;
  }

  /** Draws two numbers: caption, flip; and two more for the place of a cut. */
  async load(index: number, { width, height, random, signal }: LoadSampleOptions): Promise<Sample | undefined> {
    checkRequest(index, this.length, { width, height });
    if (width !== height) throw new IFError('INVALID_ARGUMENT', `emojis are square, got ${width} × ${height}`);
    const position = this.chosen[index]!;
    const emoji = this.all[position]!;
    const key = `${this.options.set}/${emoji.hexcode}`;
    const caption = choose(emoji.captions, random());
    const flip = random() < 0.5 && (this.options.flip ?? false);
    const image = await this.picture(position, width, random, signal);
    if ('reason' in image) {
      this.list.add({ key, reason: image.reason });
      return undefined;
    }
    return { key, image: flip ? mirror(image, width) : image, width, height, caption };
  }

  private async picture(position: number, size: number, random: () => number, signal?: AbortSignal): Promise<Uint8Array | Unusable> {
    const emoji = this.all[position]!;
    const whole = this.options.cropFrom ?? size;
    if (size > whole) throw new IFError('INVALID_ARGUMENT', `data.cropFrom: expected at least the size of the pictures, ${size}, got ${whole}`);
    const spare = whole - size + 1;
    const [left, top] = whole === size ? [0, 0] : [Math.floor(random() * spare), Math.floor(random() * spare)];
    const cache = await this.cacheOf(whole);
    if (signal?.aborted) throw new IFError('CANCELLED', 'loading a picture was cancelled');
    if (!cache) return rasterise(emoji, size, { left: left / whole, top: top / whole, side: size / whole });
    const image = await cache.read(position);
    return whole === size || 'reason' in image ? image : cut(image, whole, left, top, { width: size, height: size });
  }

  async *captions(): AsyncGenerator<string> {
    for (const position of this.chosen) yield* new Set(this.all[position]!.captions);
  }

  async close(): Promise<void> {
    const caches = await Promise.allSettled(this.caches.values());
    this.caches.clear();
    for (const cache of caches) if (cache.status === 'fulfilled') await cache.value?.close();
  }

  /** undefined: pictures of this size are drawn one by one. */
  private cacheOf(size: number): Promise<PixelCache | undefined> {
    let cache = this.caches.get(size);
    if (!cache) {
      cache = this.openCache(size);
      this.caches.set(size, cache);
    }
    return cache;
  }

  private async openCache(size: number): Promise<PixelCache | undefined> {
    const { cacheDir, onProgress, onWarning } = this.context;
    if (cacheDir === null || size > LARGEST_CACHED) return undefined;
    const key = createHash('sha256').update(JSON.stringify([RECIPE, this.versions, sharp.versions, size])).digest('hex');
    const file = path.join(cacheDir, 'pixels', `${this.options.set}-${size}-${key.slice(0, 16)}.pixels`);
    try {
      return await PixelCache.open(file, { key, count: this.all.length, bytes: 3 * size * size }, (i) => rasterise(this.all[i]!, size),
        onProgress && ((done, total) => onProgress(`drawing ${this.options.set} emojis of ${size} × ${size}`, done, total)));
    } catch (error) {
      if (!(error instanceof IFError && error.code === 'IO')) throw error;
      onWarning?.(`${error.message}; emojis are drawn each time instead`);
      return undefined;
    }
  }
}

/**
 * Emojis on white with their names as captions, at any size; drawn once per size into a cache.
 * @throws IFError as loadEmojiSet
 */
export async function openEmoji(options: EmojiOptions, context: DataContext): Promise<Dataset> {
  const split = options.split ?? 'train';
  if (split !== 'train' && split !== 'validation') throw new IFError('INVALID_ARGUMENT', `data.split: expected train or validation, got ${JSON.stringify(split)}`);
  const { groups, cropFrom } = options;
  const unknown = groups?.find((group) => !EMOJI_GROUPS.includes(group));
  if (groups?.length === 0 || unknown !== undefined) throw new IFError('INVALID_ARGUMENT', `data.groups: expected some of ${EMOJI_GROUPS.join(', ')}, got ${JSON.stringify(unknown ?? [])}`);
  if (cropFrom !== undefined && !(Number.isInteger(cropFrom) && cropFrom >= 1 && cropFrom <= 4096)) throw new IFError('INVALID_ARGUMENT', `data.cropFrom: expected 1 to 4096 pixels, got ${cropFrom}`);
  const { emojis, versions } = await loadEmojiSet(options.set, context.base);
  const chosen = [...emojis.keys()].filter((i) => isHeldOut(emojis[i]!.hexcode) === (split === 'validation') && (groups?.includes(emojis[i]!.group) ?? true));
  return new EmojiDataset(`${options.set} emojis, ${split}, ${chosen.length} pictures (${versions})`, emojis, chosen, versions, options, context);
}
