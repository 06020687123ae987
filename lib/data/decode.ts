import { readFile, stat } from 'node:fs/promises';
import sharp, { type Metadata } from 'sharp';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { Budget } from './budget.js';
import type { Shape } from './dataset.js';

/** A decoded picture: 3 · width · height bytes, RGB, row by row. */
export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
}

/** Why something could not be used, for people. */
export interface Unusable {
  reason: string;
}

/** Pixels of a picture and bytes of its file beyond which it is refused: a small file can claim terabytes. */
export const LARGEST_PICTURE = 100_000_000;
export const LARGEST_FILE = 256 * 2 ** 20;
/** Longer side ÷ shorter side; resized to a short side of 1024 this is 50 MB. */
export const LARGEST_RATIO = 16;

const FORMATS = new Set<string>(['jpeg', 'png', 'webp', 'gif', 'tiff', 'heif']);
// What decoding may hold at a time, in all datasets together. Per pixel: libvips keeps up to 8 bytes of an interlaced
// 16-bit picture, and the result has 3.
const decoding = new Budget(400e6);
const BYTES_PER_PIXEL = 11;

/**
 * Decodes a picture off the JavaScript thread: JPEG, PNG, WebP, GIF, TIFF or AVIF; upright by its EXIF orientation, in
 * sRGB by its colour profile (CMYK included), 16 bits rounded to 8, grey as three equal channels, transparency over
 * white, the first frame of an animation. Waits while other pictures hold the memory for decoding; `use` is called while
 * that memory is counted, and gives what outlives it.
 * @param source the bytes of the file, or its path
 * @returns what `use` returns, or why the picture cannot be used: unreadable, damaged, cut off, another format, or larger
 *   than LARGEST_PICTURE, LARGEST_FILE, LARGEST_RATIO
 * @throws IFError `CANCELLED`, and what `use` throws
 */
export async function decode<T>(source: Uint8Array | string, use: (pixels: Pixels) => Promise<T>, signal?: AbortSignal): Promise<T | Unusable> {
  const file = await encodedBytes(source);
  if ('reason' in file) return file;
  const header = await readHeader(file.bytes);
  if ('reason' in header) return header;
  const release = await decoding.take(file.bytes.length + header.width * header.height * BYTES_PER_PIXEL);
  try {
    if (signal?.aborted) throw new IFError('CANCELLED', 'loading a picture was cancelled');
    const pixels = await readPixels(file.bytes);
    return 'reason' in pixels ? pixels : await use(pixels);
  } finally {
    release();
  }
}

/**
 * Width and height of a picture as it is seen upright, from its header: the rest of a file is not read, and may be damaged.
 * @param source the bytes of the file, or its path
 * @returns or why the picture cannot be used, as decode
 */
export async function readShape(source: Uint8Array | string): Promise<Shape | Unusable> {
  return await refusal(source) ?? readHeader(source);
}

async function encodedBytes(source: Uint8Array | string): Promise<{ bytes: Uint8Array } | Unusable> {
  const refused = await refusal(source);
  if (refused) return refused;
  try {
    return { bytes: typeof source === 'string' ? await readFile(source) : source };
  } catch (error) {
    return { reason: (ioError('reading', source as string, error) as Error).message };
  }
}

/** Why a file is not even read. */
async function refusal(source: Uint8Array | string): Promise<Unusable | undefined> {
  let bytes: number;
  if (typeof source === 'string') {
    try {
      const found = await stat(source);
      if (!found.isFile()) return { reason: 'it is not a file' }; // opening a pipe would wait for ever
      bytes = found.size;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT') return { reason: 'the file does not exist' };
      return { reason: (ioError('reading', source, error) as Error).message };
    }
  } else {
    bytes = source.length;
  }
  if (bytes === 0) return { reason: 'its file is empty' };
  if (bytes > LARGEST_FILE) return { reason: `its file has ${bytes} bytes, more than ${LARGEST_FILE}` };
  return undefined;
}

/** sharp's and libvips' message, on one line. */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (/unsupported image format/.test(message)) return 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture';
  return `it cannot be decoded: ${message.trim().replace(/\s*\n\s*/g, '; ')}`;
}

async function readHeader(source: Uint8Array | string): Promise<Shape | Unusable> {
  let header: Metadata;
  try {
    header = await sharp(source, { limitInputPixels: false }).metadata();
  } catch (error) {
    return { reason: reasonOf(error) };
  }
  const { format, width, height } = header;
  if (!FORMATS.has(format)) return { reason: `it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture, but ${format}` };
  if (!(width > 0 && height > 0 && width * height <= LARGEST_PICTURE)) {
    return { reason: `it has ${width} × ${height} pixels, more than ${LARGEST_PICTURE / 1e6} million` };
  }
  if (Math.max(width, height) > LARGEST_RATIO * Math.min(width, height)) {
    return { reason: `it has ${width} × ${height} pixels: one side is more than ${LARGEST_RATIO} times the other` };
  }
  return header.autoOrient;
}

async function readPixels(bytes: Uint8Array): Promise<Pixels | Unusable> {
  try {
    // failOn error: what is cut off is refused, what only breaks a rule (odd profiles, stray bytes) is not
    const { data, info } = await sharp(bytes, { limitInputPixels: LARGEST_PICTURE, failOn: 'error' })
      .autoOrient().flatten({ background: '#ffffff' }).toColourspace('srgb').raw().toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
  } catch (error) {
    return { reason: reasonOf(error) };
  }
}
