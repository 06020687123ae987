import { addon, type ResizeFilter } from '../addon.js';
import type { Shape } from './dataset.js';
import type { Pixels } from './decode.js';

/** torchvision's Resize and diffusers' IF training: bilinear, antialiased. */
const FILTER: ResizeFilter = 'bilinear';

/** The result's width and height in pixels, and how it is cut. */
export interface CoverOptions extends Shape {
  crop: 'random' | 'center';
  /** Mirrored left to right, half of the time. */
  flip: boolean;
  /** Uniform numbers in [0, 1). Two are drawn: flip, place of the crop. */
  random: () => number;
}

/**
 * A picture of the shape that is asked for: resized until it just covers it (antialiased; one side fits, the other is in
 * proportion and rounded down as torchvision does), then what is too much is cut off, then it is perhaps mirrored.
 * @returns 3 · width · height bytes, RGB, row by row
 */
export async function cover(pixels: Pixels, { width, height, crop, flip, random }: CoverOptions): Promise<Uint8Array> {
  const mirrored = random() < 0.5 && flip;
  const place = random();
  const tooWide = pixels.width * height > pixels.height * width;
  const fullWidth = tooWide ? Math.floor(pixels.width * height / pixels.height) : width;
  const fullHeight = tooWide ? height : Math.floor(pixels.height * width / pixels.width);
  const resized = await addon.resizePixels(pixels.data, pixels.width, pixels.height, 3, fullWidth, fullHeight, FILTER);
  const spare = fullWidth - width + fullHeight - height; // one of them is 0
  const offset = crop === 'random' ? Math.floor(place * (spare + 1)) : Math.round(spare / 2);
  const part = cut(resized, fullWidth, tooWide ? offset : 0, tooWide ? 0 : offset, { width, height });
  return mirrored ? mirror(part, width) : part;
}

/** The part of `shape` whose first pixel is at (left, top), of a picture with rows of `rowWidth` RGB pixels. */
export function cut(data: Uint8Array, rowWidth: number, left: number, top: number, { width, height }: Shape): Uint8Array {
  const out = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const from = 3 * ((top + y) * rowWidth + left);
    out.set(data.subarray(from, from + 3 * width), 3 * width * y);
  }
  return out;
}

/** Left to right; rows of `width` RGB pixels. */
export function mirror(data: Uint8Array, width: number): Uint8Array {
  const out = new Uint8Array(data.length);
  for (let row = 0; row < data.length; row += 3 * width) {
    for (let from = row, to = row + 3 * (width - 1); to >= row; from += 3, to -= 3) {
      out[to] = data[from]!;
      out[to + 1] = data[from + 1]!;
      out[to + 2] = data[from + 2]!;
    }
  }
  return out;
}

/**
 * The low-resolution picture that stages II and III are conditioned on: the same cut, antialiased.
 * @param image 3 · width · height bytes, RGB
 * @param factor by how much it is reduced; divides both sides
 * @returns 3 · (width / factor) · (height / factor) bytes
 */
export function lowResolution(image: Uint8Array, { width, height }: Shape, factor: number, filter: ResizeFilter): Promise<Uint8Array> {
  return addon.resizePixels(image, width, height, 3, width / factor, height / factor, filter);
}
