// Every kind of picture becomes upright 8-bit RGB on white; what cannot is refused with a reason.
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { describe, expect, test } from 'vitest';
import { Budget } from '../../lib/data/budget.js';
import { decode, readShape, type Pixels, type Unusable } from '../../lib/data/decode.js';
import { expectIFError } from '../support/expect-error.js';
import { drawn, plain, temporaryFolder } from '../support/pictures.js';

const pixelsOf = (source: Uint8Array | string): Promise<Pixels | Unusable> => decode(source, async (pixels) => pixels);
async function decoded(source: Uint8Array | string): Promise<Pixels> {
  const pixels = await pixelsOf(source);
  if ('reason' in pixels) throw new Error(pixels.reason);
  return pixels;
}
const COLOUR = [10, 100, 200] as const;
/** Every pixel is `colour`, within `tolerance` per channel. */
function expectPlain({ data, width, height }: Pixels, [w, h]: [number, number], colour: readonly number[], tolerance = 0): void {
  expect([width, height, data.length]).toEqual([w, h, 3 * w * h]);
  for (const [i, value] of data.entries()) expect(Math.abs(value - colour[i % 3]!)).toBeLessThanOrEqual(tolerance);
}

describe('formats', () => {
  const cases: Record<string, { make: () => Promise<Buffer>; tolerance?: number }> = {
    png: { make: () => plain(5, 3, COLOUR).png().toBuffer() },
    'palette png': { make: () => plain(5, 3, COLOUR).png({ palette: true }).toBuffer() },
    'interlaced png': { make: () => plain(5, 3, COLOUR).png({ progressive: true }).toBuffer() },
    'lossless webp': { make: () => plain(5, 3, COLOUR).webp({ lossless: true }).toBuffer() },
    gif: { make: () => plain(5, 3, COLOUR).gif().toBuffer() },
    tiff: { make: () => plain(5, 3, COLOUR).tiff({ compression: 'lzw' }).toBuffer() },
    // quantisation and the conversion to YCbCr: a few steps
    jpeg: { make: () => plain(5, 3, COLOUR).jpeg({ quality: 100 }).toBuffer(), tolerance: 2 },
    'progressive jpeg': { make: () => plain(5, 3, COLOUR).jpeg({ quality: 100, progressive: true }).toBuffer(), tolerance: 2 },
    avif: { make: () => plain(5, 3, COLOUR).avif({ quality: 100 }).toBuffer(), tolerance: 4 },
    '16-bit png': { make: () => plain(5, 3, COLOUR).toColourspace('rgb16').png().toBuffer() },
  };
  for (const [name, { make, tolerance = 0 }] of Object.entries(cases)) {
    test(name, async () => {
      expectPlain(await decoded(await make()), [5, 3], COLOUR, tolerance);
    });
  }
  test('the 16-bit file is one', async () => {
    expect((await sharp(await cases['16-bit png']!.make()).metadata()).depth).toBe('ushort');
  });

  test('CMYK becomes the colours that it stands for, as far as ink goes', async () => {
    const colours = { white: [255, 255, 255], black: [0, 0, 0], red: [255, 0, 0], green: [0, 255, 0], blue: [0, 0, 255] } as const;
    const got: Record<string, number[]> = {};
    for (const [name, colour] of Object.entries(colours)) {
      const jpeg = await plain(16, 16, colour).toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
      expect((await sharp(jpeg).metadata()).space).toBe('cmyk');
      const { data, width, height } = await decoded(jpeg);
      expect([width, height, data.length]).toEqual([16, 16, 768]);
      got[name] = [...data.subarray(0, 3)];
    }
    // inverted ink (Adobe's files) or a dropped channel would swap these
    expect(Math.min(...got['white']!)).toBeGreaterThan(240);
    expect(Math.max(...got['black']!)).toBeLessThan(80);
    for (const [c, name] of ['red', 'green', 'blue'].entries()) {
      for (const other of [0, 1, 2]) if (other !== c) expect(got[name]![c]! - got[name]![other]!).toBeGreaterThan(0);
    }
  });

  test('grey becomes three equal channels, 16-bit grey too', async () => {
    const grey = drawn(4, 2, 1, (x) => 60 * x);
    const png = await grey.toColourspace('b-w').png().toBuffer();
    expect((await sharp(png).metadata()).channels).toBe(1);
    const want = Uint8Array.from({ length: 24 }, (_, i) => 60 * (Math.floor(i / 3) % 4));
    expect(Uint8Array.from((await decoded(png)).data)).toEqual(want);
    const deep = await grey.toColourspace('grey16').png().toBuffer();
    expect(await sharp(deep).metadata()).toMatchObject({ channels: 1, depth: 'ushort' });
    expect(Uint8Array.from((await decoded(deep)).data)).toEqual(want);
  });

  test('transparency lies on white', async () => {
    const half = (image: Sharp): Promise<Buffer> => image.png().toBuffer();
    const rgba = drawn(3, 1, 4, (x, _y, c) => (c < 3 ? COLOUR[c]! : [0, 128, 255][x]!));
    const { data } = await decoded(await half(rgba));
    expect([...data.subarray(0, 3)]).toEqual([255, 255, 255]);
    for (let c = 0; c < 3; c++) expect(Math.abs(data[3 + c]! - (255 + (COLOUR[c]! - 255) * 128 / 255))).toBeLessThanOrEqual(1);
    expect([...data.subarray(6, 9)]).toEqual([...COLOUR]);
    const grey = await decoded(await half(drawn(2, 1, 2, (x, _y, c) => (c === 0 ? 40 : 255 * x)).toColourspace('b-w')));
    expect([...grey.data]).toEqual([255, 255, 255, 40, 40, 40]);
  });

  test('every EXIF orientation is turned upright', async () => {
    // as it should look: 3 × 2, red in the corner at the top left, the rest white
    const want = drawn(3, 2, 3, (x, y, c) => (x === 0 && y === 0 && c > 0 ? 0 : 255));
    const { data } = await want.clone().raw().toBuffer({ resolveWithObject: true });
    // how the camera stored it: the inverse of what its orientation asks for (EXIF 2.3, tag 274)
    const stored: Record<number, (image: Sharp) => Sharp> = {
      1: (image) => image, 2: (image) => image.flop(), 3: (image) => image.rotate(180), 4: (image) => image.flip(),
      6: (image) => image.rotate(270), 8: (image) => image.rotate(90),
    };
    for (const [orientation, turn] of Object.entries(stored)) {
      const png = await turn(want.clone()).withMetadata({ orientation: Number(orientation) }).png().toBuffer();
      const got = await decoded(png);
      expect([orientation, got.width, got.height]).toEqual([orientation, 3, 2]);
      expect(Buffer.from(got.data)).toEqual(data);
    }
  });

  test('the shape alone: upright, from the header', async () => {
    const png = await drawn(3, 2, 3, () => 9).withMetadata({ orientation: 6 }).png().toBuffer();
    expect(await readShape(png)).toEqual({ width: 2, height: 3 });
    const file = path.join(await temporaryFolder(), 'a.png');
    await writeFile(file, png.subarray(0, png.length - 20)); // its pixels are cut off: that is for later
    expect(await readShape(file)).toEqual({ width: 2, height: 3 });
    expect(await pixelsOf(file)).toHaveProperty('reason');
    expect(await readShape(`${file}.none`)).toEqual({ reason: 'the file does not exist' });
    expect(await readShape(path.dirname(file))).toEqual({ reason: 'it is not a file' });
    expect(await readShape(new Uint8Array(0))).toEqual({ reason: 'its file is empty' });
    expect(await readShape(Buffer.from('no picture'))).toHaveProperty('reason', 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture');
    expect(await readShape(await plain(170, 10, COLOUR).png().toBuffer())).toHaveProperty('reason', expect.stringMatching(/more than 16 times the other/));
  });

  test('a colour profile is applied', async () => {
    const inP3 = await decoded(await plain(4, 4, [255, 0, 0]).withIccProfile('p3').png().toBuffer());
    expectPlain(inP3, [4, 4], [255, 0, 0], 3); // to P3 when it was written, back when it was read
    const stripped = await decoded(withoutChunk(await plain(4, 4, [255, 0, 0]).withIccProfile('p3').png().toBuffer(), 'iCCP'));
    expectPlain(stripped, [4, 4], [234, 51, 35], 3); // sRGB's red in Display P3 (the matrices of the two standards)
  });

  test('the first frame of an animation', async () => {
    const gif = await sharp([await plain(8, 6, [255, 0, 0]).png().toBuffer(), await plain(8, 6, [0, 0, 255]).png().toBuffer()], { join: { animated: true } }).gif().toBuffer();
    expect((await sharp(gif).metadata()).pages).toBe(2);
    expectPlain(await decoded(gif), [8, 6], [255, 0, 0], 1);
  });

  test('one pixel', async () => {
    expectPlain(await decoded(await plain(1, 1, COLOUR).png().toBuffer()), [1, 1], COLOUR);
  });

  test('a file, and a file whose name says another format', async () => {
    const file = path.join(await temporaryFolder(), 'picture.jpg');
    await writeFile(file, await plain(5, 3, COLOUR).png().toBuffer());
    expectPlain(await decoded(file), [5, 3], COLOUR);
  });
});

function withoutChunk(png: Buffer, type: string): Buffer {
  const kept = [png.subarray(0, 8)];
  for (let at = 8, end: number; at < png.length; at = end) {
    end = at + 12 + png.readUInt32BE(at);
    if (png.toString('latin1', at + 4, at + 8) !== type) kept.push(png.subarray(at, end));
  }
  return Buffer.concat(kept);
}

/** A PNG file of any claimed size, with `data` as its compressed content. */
function claimingPng(width: number, height: number, data: Buffer): Buffer {
  const chunk = (type: string, content: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), content]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(content.length);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8);
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

describe('refused with a reason', () => {
  const noise = (): Sharp => drawn(200, 200, 3, (x, y, c) => (x * 7919 + y * 104729 + c * 31 + x * y * 17) & 255);
  const cases: Record<string, { make: () => Promise<Uint8Array>; reason: RegExp }> = {
    'an empty file': { make: async () => new Uint8Array(0), reason: /^its file is empty$/ },
    text: { make: async () => Buffer.from('not a picture at all'), reason: /^it is not a JPEG, PNG/ },
    'an SVG drawing': { make: async () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'), reason: /not a JPEG.*but svg$/ },
    'half of a JPEG': { make: async () => half(await noise().jpeg().toBuffer()), reason: /^it cannot be decoded: .*premature end/ },
    'half of a PNG': { make: async () => half(await noise().png().toBuffer()), reason: /^it cannot be decoded/ },
    'half of a WebP': { make: async () => half(await noise().webp().toBuffer()), reason: /^it cannot be decoded/ },
    'the first bytes only': { make: async () => (await noise().png().toBuffer()).subarray(0, 20), reason: /^it cannot be decoded|^it is not/ },
    'a PNG with damaged content': { make: async () => claimingPng(50, 50, deflateSync(Buffer.alloc(100))), reason: /^it cannot be decoded/ },
    'a small file that claims 4 gigapixels': { make: async () => claimingPng(65535, 65535, deflateSync(Buffer.alloc(10))), reason: /^it has 65535 × 65535 pixels, more than 100 million$/ },
    'a ribbon': { make: () => plain(1, 17, COLOUR).png().toBuffer(), reason: /^it has 1 × 17 pixels: one side is more than 16 times the other$/ },
  };
  const half = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, bytes.length >> 1);
  for (const [name, { make, reason }] of Object.entries(cases)) {
    test(name, async () => {
      const result = await pixelsOf(await make());
      expect('reason' in result && result.reason).toMatch(reason);
      expect((result as Unusable).reason).not.toMatch(/\n/);
    });
  }

  test('a file that is not there, and a folder', async () => {
    const folder = await temporaryFolder();
    expect(await pixelsOf(path.join(folder, 'none.png'))).toEqual({ reason: 'the file does not exist' });
    expect(await pixelsOf(folder)).toEqual({ reason: 'it is not a file' });
  });

  test('damaged bytes anywhere give a picture or a reason, never an exception', async () => {
    const files = await Promise.all([noise().jpeg().toBuffer(), noise().png().toBuffer(), noise().webp().toBuffer(), noise().gif().toBuffer(), noise().tiff().toBuffer()]);
    let refused = 0;
    for (const [which, file] of files.entries()) {
      for (let i = 0; i < 40; i++) {
        const damaged = Buffer.from(file);
        for (let k = 0; k < 4; k++) damaged[(i * 7919 + k * 104729 + which) % damaged.length]! ^= 1 + (i * 31 + k) % 255;
        const result = await pixelsOf(damaged);
        if ('reason' in result) refused++;
        else expect(result.data.length).toBe(3 * result.width * result.height);
      }
    }
    expect(refused).toBeGreaterThan(20);
  });
});

test('a cancelled decoding and an error of the user of the pixels pass through, and give their memory back', async () => {
  const bytes = await plain(2000, 2000, COLOUR).png().toBuffer();
  const signal = AbortSignal.abort();
  // 2000 × 2000 × 11 bytes = 44 MB of the 400 MB: twelve would not fit if the memory stayed taken
  for (let i = 0; i < 12; i++) {
    await expectIFError('CANCELLED', () => decode(bytes, async () => 0, signal));
    await expect(decode(bytes, async () => { throw new Error('mine'); })).rejects.toThrow('mine');
  }
  expectPlain(await decoded(await plain(2, 2, COLOUR).png().toBuffer()), [2, 2], COLOUR);
});

test('a budget is never exceeded, and served in order', async () => {
  const budget = new Budget(10);
  const order: number[] = [];
  let used = 0;
  let most = 0;
  const task = async (amount: number, i: number): Promise<void> => {
    const giveBack = await budget.take(amount);
    order.push(i);
    used += Math.min(amount, 10);
    most = Math.max(most, used);
    await new Promise((resolve) => setTimeout(resolve, 2));
    used -= Math.min(amount, 10);
    giveBack();
  };
  await Promise.all([4, 6, 3, 100, 1, 9, 10, 2, 2, 2].map(task));
  expect(most).toBe(10);
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});
