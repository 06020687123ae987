import { addon, type ResizeFilter } from '../addon.js';
import type { Pixels } from './decode.js';

/** torchvision's Resize and diffusers' IF training: bilinear, antialiased. */
const FILTER: ResizeFilter = 'bilinear';

export interface SquareOptions {
  /** Side of the result in pixels. */
  size: number;
  crop: 'random' | 'center';
  /** Mirrored left to right, half of the time. */
  flip: boolean;
  /** Uniform numbers in [0, 1). Two are drawn: flip, place of the crop. */
  random: () => number;
}

/**
 * A square picture: the short side is resized to `size` (antialiased; the long one in proportion, rounded down as
 * torchvision does), then cut along the long side, then perhaps mirrored.
 * @returns 3 · size · size bytes, RGB, row by row
 */
export async function toSquare(pixels: Pixels, { size, crop, flip, random }: SquareOptions): Promise<Uint8Array> {
  const mirrored = random() < 0.5 && flip;
  const place = random();
  const short = Math.min(pixels.width, pixels.height);
  const width = Math.floor(pixels.width * size / short);
  const height = Math.floor(pixels.height * size / short);
  const resized = await addon.resizePixels(pixels.data, pixels.width, pixels.height, 3, width, height, FILTER);
  const spare = Math.max(width, height) - size;
  const offset = crop === 'random' ? Math.floor(place * (spare + 1)) : Math.round(spare / 2);
  const square = width > height ? cut(resized, width, offset, 0, size) : cut(resized, width, 0, offset, size);
  return mirrored ? mirror(square, size) : square;
}

/** The square of `size` pixels whose first one is at (left, top), of a picture with rows of `width` RGB pixels. */
export function cut(data: Uint8Array, width: number, left: number, top: number, size: number): Uint8Array {
  const out = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((top + y) * width + left);
    out.set(data.subarray(from, from + 3 * size), 3 * size * y);
  }
  return out;
}

/** Left to right; `size` rows of `size` RGB pixels. */
export function mirror(data: Uint8Array, size: number): Uint8Array {
  const out = new Uint8Array(data.length);
  for (let y = 0; y < size; y++) {
    for (let from = 3 * y * size, to = 3 * (y * size + size - 1); to >= 3 * y * size; from += 3, to -= 3) {
      out[to] = data[from]!;
      out[to + 1] = data[from + 1]!;
      out[to + 2] = data[from + 2]!;
    }
  }
  return out;
}

/**
 * The low-resolution picture that stages II and III are conditioned on: the same square, antialiased.
 * @param image 3 · size · size bytes, RGB
 * @returns 3 · lowSize · lowSize bytes
 */
export function lowResolution(image: Uint8Array, size: number, lowSize: number, filter: ResizeFilter): Promise<Uint8Array> {
  return addon.resizePixels(image, size, size, 3, lowSize, lowSize, filter);
}
