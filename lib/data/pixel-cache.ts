import { mkdir, open, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import type { Unusable } from './decode.js';

export interface PixelCacheLayout {
  /** Identifies everything that the pixels depend on; a file of another key is replaced. */
  key: string;
  /** Pictures, and bytes of each. */
  count: number;
  bytes: number;
}

/** The end of the file: where the pictures stop, this begins. */
interface Footer extends PixelCacheLayout {
  /** Reason by index. */
  unusable: Record<string, string>;
}

const MAGIC = 'IFPIXEL1';
const TRAILER = 4 + MAGIC.length; // length of the footer, magic
const RENDERED_AHEAD = 4; // libuv's threads

/**
 * Pictures of one size in one file, drawn once: pixels one after another, then a footer. Reading one is reading a slice
 * of the file, which the system keeps in memory when it can.
 */
export class PixelCache {
  /** Files that are being written by this process: a second dataset waits for the first. */
  private static readonly writing = new Map<string, Promise<void>>();

  private constructor(private readonly file: string, private readonly handle: FileHandle, private readonly footer: Footer) {}

  /**
   * Opens the file, after drawing all of its pictures when it is not there, is not whole or has another key. It appears
   * whole or not at all.
   * @param render the pixels of picture `index`, layout.bytes of them, or why it cannot be drawn
   * @throws IFError `IO` when it cannot be written or read; what `render` throws
   */
  static async open(
    file: string, layout: PixelCacheLayout, render: (index: number) => Promise<Uint8Array | Unusable>, onProgress?: (done: number, total: number) => void,
  ): Promise<PixelCache> {
    await PixelCache.writing.get(file)?.catch(() => undefined);
    const ready = await PixelCache.openExisting(file, layout);
    if (ready) return ready;
    let writing = PixelCache.writing.get(file);
    if (!writing) {
      writing = write(file, layout, render, onProgress).finally(() => PixelCache.writing.delete(file));
      PixelCache.writing.set(file, writing);
    }
    await writing;
    const written = await PixelCache.openExisting(file, layout);
    if (!written) throw new IFError('IO', `pixel cache ${file}: it was replaced while it was opened; give each run a cache folder of its own`);
    return written;
  }

  /** undefined when there is no such file, or it holds something else. */
  private static async openExisting(file: string, layout: PixelCacheLayout): Promise<PixelCache | undefined> {
    let handle: FileHandle;
    try {
      handle = await open(file, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw ioError('reading', file, error);
    }
    const footer = await readFooter(handle, layout).catch(() => undefined);
    if (footer) return new PixelCache(file, handle, footer);
    await handle.close();
    return undefined;
  }

  /**
   * The pixels of one picture, or why it could not be drawn.
   * @throws IFError `IO`
   */
  async read(index: number): Promise<Uint8Array | Unusable> {
    const reason = this.footer.unusable[index];
    if (reason !== undefined) return { reason };
    const { bytes } = this.footer;
    const pixels = new Uint8Array(bytes);
    const { bytesRead } = await this.handle.read(pixels, 0, bytes, index * bytes).catch((error: unknown) => {
      throw ioError('reading', this.file, error);
    });
    if (bytesRead !== bytes) throw new IFError('IO', `reading ${this.file}: it was cut off; delete it`);
    return pixels;
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

async function readFooter(handle: FileHandle, { key, count, bytes }: PixelCacheLayout): Promise<Footer | undefined> {
  const pixels = count * bytes;
  const { size } = await handle.stat();
  if (size < pixels + TRAILER) return undefined;
  const end = Buffer.alloc(size - pixels);
  await handle.read(end, 0, end.length, pixels);
  const at = end.length - TRAILER;
  if (end.toString('latin1', at + 4) !== MAGIC || end.readUInt32LE(at) !== at) return undefined;
  const footer = JSON.parse(end.toString('utf8', 0, at)) as Footer;
  return footer.key === key && footer.count === count && footer.bytes === bytes ? footer : undefined;
}

async function write(
  file: string, layout: PixelCacheLayout, render: (index: number) => Promise<Uint8Array | Unusable>, onProgress?: (done: number, total: number) => void,
): Promise<void> {
  try {
    await mkdir(path.dirname(file), { recursive: true });
  } catch (error) {
    throw ioError('writing', file, error);
  }
  await writeFileAtomic(file, contents(layout, render, onProgress));
}

async function* contents(
  layout: PixelCacheLayout, render: (index: number) => Promise<Uint8Array | Unusable>, onProgress?: (done: number, total: number) => void,
): AsyncGenerator<Uint8Array> {
  const unusable: Record<string, string> = {};
  const ahead: Promise<Uint8Array | Unusable>[] = [];
  for (let index = 0, next = 0; index < layout.count; index++) {
    for (; next < layout.count && next < index + RENDERED_AHEAD; next++) {
      const rendering = render(next);
      rendering.catch(() => undefined); // thrown when its turn comes; without this an earlier error would leave it unhandled
      ahead.push(rendering);
    }
    const picture = await ahead.shift()!;
    if ('reason' in picture) unusable[index] = picture.reason;
    else if (picture.length !== layout.bytes) throw new IFError('INTERNAL', `pixel cache: expected ${layout.bytes} bytes of picture ${index}, got ${picture.length}`);
    yield 'reason' in picture ? new Uint8Array(layout.bytes) : picture;
    onProgress?.(index + 1, layout.count);
  }
  const footer = Buffer.from(JSON.stringify({ ...layout, unusable } satisfies Footer));
  const trailer = Buffer.alloc(TRAILER);
  trailer.writeUInt32LE(footer.length);
  trailer.write(MAGIC, 4, 'latin1');
  yield footer;
  yield trailer;
}
