import { readFile } from 'node:fs/promises';
import sharp from 'sharp';
import { IFError } from './errors.js';
import { ioError, writeFileAtomic } from './files.js';
import { insertPngText, parsePngText } from './png-text.js';
import { roundHalfToEven } from './round.js';
import type { Images } from './tensor.js';

/**
 * Bytes of one picture: clamp(x / 2 + 1/2, 0, 1) * 255, halves rounded to even, each operation in float32, as diffusers
 * does it (VaeImageProcessor.denormalize and numpy_to_pil, src/diffusers/image_processor.py).
 * @param image one picture, (1, 3, height, width) in [-1, 1]; values beyond are clamped
 * @returns (height, width, 3)
 * @throws IFError `INVALID_ARGUMENT` for other shapes, when the length does not fit the shape, or a value is not a number
 */
export function toBytes({ data: pixels, shape }: Images): Uint8Array {
  const [count, channels, height, width] = shape;
  const plane = height * width;
  if (!(count === 1 && channels === 3 && plane > 0 && pixels.length === 3 * plane)) {
    throw new IFError('INVALID_ARGUMENT', `picture: expected shape (1, 3, height, width) and as many values, got (${shape.join(', ')}) and ${pixels.length} values`);
  }
  const bytes = new Uint8Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < plane; i++) {
      const x = pixels[c * plane + i]!;
      if (Number.isNaN(x)) {
        throw new IFError('INVALID_ARGUMENT', `picture: expected numbers, got NaN at channel ${c}, row ${Math.floor(i / width)}, column ${i % width}: `
          + 'the network or its input has values that are not finite');
      }
      const unit = Math.min(Math.max(Math.fround(x / 2 + 0.5), 0), 1);
      bytes[3 * i + c] = roundHalfToEven(Math.fround(unit * 255));
    }
  }
  return bytes;
}

/**
 * RGB bytes as values in [-1, 1]: x / 127.5 - 1.
 * @param bytes pictures, one after another, (N, height, width, 3)
 * @returns (N, 3, height, width)
 */
export function toImages(bytes: Uint8Array, height: number, width: number): Images {
  const plane = height * width;
  const count = bytes.length / (3 * plane);
  if (!(plane > 0 && Number.isInteger(count))) throw new IFError('INVALID_ARGUMENT', `pictures: expected a multiple of 3 · ${height} · ${width} bytes, got ${bytes.length}`);
  const data = new Float32Array(bytes.length);
  for (let n = 0; n < count; n++) {
    for (let c = 0; c < 3; c++) {
      for (let i = 0; i < plane; i++) data[(n * 3 + c) * plane + i] = bytes[(n * plane + i) * 3 + c]! / 127.5 - 1;
    }
  }
  return { data, shape: [count, 3, height, width] };
}

/**
 * Writes one picture as an 8-bit RGB PNG file, whole or not at all.
 * @param image one picture, (1, 3, height, width) in [-1, 1]; values beyond are clamped (of a batch: imageAt)
 * @param metadata text entries of the file: keyword → value, e.g. prompt and seed (see insertPngText)
 * @throws IFError `INVALID_ARGUMENT` as toBytes and insertPngText; `IO` with the operating system's reason
 */
export async function writePng(file: string, image: Images, metadata: Readonly<Record<string, string>> = {}): Promise<void> {
  const [, , height, width] = image.shape;
  const png = await sharp(toBytes(image), { raw: { width, height, channels: 3 } }).png().toBuffer();
  await writeFileAtomic(file, insertPngText(png, metadata));
}

/**
 * The text entries of a PNG file: keyword → value.
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT` when it is not a whole PNG file, or `IO`
 */
export async function readPngText(file: string): Promise<Record<string, string>> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause });
    throw ioError('reading', file, cause);
  }
  return parsePngText(bytes, file);
}
