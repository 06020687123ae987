import { expect, test } from 'vitest';
import { addon } from '../../lib/addon.js';
import type { Pixels } from '../../lib/data/decode.js';
import { cover, lowResolution, mirror } from '../../lib/data/transforms.js';
import { sequence } from '../support/pictures.js';

/** Red counts columns, green rows. */
function ramp(width: number, height: number): Pixels {
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.set([x, y, 0], 3 * (y * width + x));
  return { data, width, height };
}
const corner = (image: Uint8Array): number[] => [image[0]!, image[1]!];

test('without a change of size: the crop begins where the random number says, first and last place included', async () => {
  for (const [place, x] of [[0, 0], [0.5, 3], [0.999999, 5]] as const) {
    const wide = await cover(ramp(9, 4), { width: 4, height: 4, crop: 'random', flip: false, random: sequence(0.9, place) });
    expect([corner(wide), wide.length]).toEqual([[x, 0], 48]);
    expect([...wide.subarray(36)]).toEqual([x, 3, 0, x + 1, 3, 0, x + 2, 3, 0, x + 3, 3, 0]);
    const high = await cover(ramp(4, 9), { width: 4, height: 4, crop: 'random', flip: false, random: sequence(0.9, place) });
    expect(corner(high)).toEqual([0, x]);
    expect([...high.subarray(36)]).toEqual([0, x + 3, 0, 1, x + 3, 0, 2, x + 3, 0, 3, x + 3, 0]);
  }
});

test('the centre', async () => {
  const image = await cover(ramp(10, 4), { width: 4, height: 4, crop: 'center', flip: false, random: sequence(0, 0) });
  expect(corner(image)).toEqual([3, 0]);
});

test('other shapes than the square: the side that fits becomes the size, the rest of the other is cut off', async () => {
  const options = { crop: 'random' as const, flip: false };
  const wide = await cover(ramp(12, 4), { width: 6, height: 4, ...options, random: sequence(0.9, 0.5) });
  expect([corner(wide), wide.length, [...wide.subarray(-3)]]).toEqual([[3, 0], 72, [8, 3, 0]]);
  const high = await cover(ramp(6, 12), { width: 6, height: 4, ...options, random: sequence(0.9, 0.5) });
  expect([corner(high), high.length, [...high.subarray(-3)]]).toEqual([[0, 4], 72, [5, 7, 0]]);
  const exact = await cover(ramp(6, 4), { width: 6, height: 4, ...options, random: sequence(0.9, 0.99) });
  expect([...exact]).toEqual([...ramp(6, 4).data]);
  // a square picture in a wide shape: enlarged to the width, rows cut off
  const { data } = ramp(40, 40);
  const whole = await addon.resizePixels(data, 40, 40, 3, 88, 88, 'bilinear');
  const cut = await cover({ data, width: 40, height: 40 }, { width: 88, height: 48, crop: 'center', flip: false, random: sequence(0.9, 0) });
  expect([...cut]).toEqual([...whole.subarray(3 * 88 * 20, 3 * 88 * 68)]);
  const wideIntoWider = await cover(ramp(9, 8), { width: 9, height: 4, crop: 'center', flip: false, random: sequence(0.9, 0) });
  expect([...wideIntoWider]).toEqual([...ramp(9, 8).data.subarray(3 * 9 * 2, 3 * 9 * 6)]);
  const mirrored = await cover(ramp(6, 4), { width: 6, height: 4, crop: 'center', flip: true, random: sequence(0, 0) });
  expect([...mirrored.subarray(0, 6)]).toEqual([5, 0, 0, 4, 0, 0]);
  expect([...mirror(mirrored, 6)]).toEqual([...ramp(6, 4).data]);
});

test('mirrored by the first number, only on request', async () => {
  const options = { width: 4, height: 4, crop: 'center' as const };
  const straight = await cover(ramp(4, 4), { ...options, flip: true, random: sequence(0.5, 0) });
  expect([...straight]).toEqual([...ramp(4, 4).data]);
  const mirrored = await cover(ramp(4, 4), { ...options, flip: true, random: sequence(0.49, 0) });
  expect([...mirrored.subarray(0, 6)]).toEqual([3, 0, 0, 2, 0, 0]);
  expect([...mirror(mirrored, 4)]).toEqual([...straight]);
  expect([...await cover(ramp(4, 4), { ...options, flip: false, random: sequence(0, 0) })]).toEqual([...straight]);
});

test('the short side becomes the size, the long one is rounded down, the filter is bilinear with antialiasing', async () => {
  const pixels = ramp(200, 120);
  const whole = await addon.resizePixels(pixels.data, 200, 120, 3, 53, 32, 'bilinear'); // 200 · 32 / 120 = 53.3
  const image = await cover(pixels, { width: 32, height: 32, crop: 'random', flip: false, random: sequence(0, 0.9999) });
  for (let y = 0; y < 32; y++) expect([...image.subarray(96 * y, 96 * y + 96)]).toEqual([...whole.subarray(3 * (53 * y + 21), 3 * (53 * y + 53))]);
});

test('tiny pictures are enlarged', async () => {
  const image = await cover({ data: Uint8Array.of(1, 2, 3), width: 1, height: 1 }, { width: 64, height: 64, crop: 'random', flip: true, random: sequence(0, 0) });
  expect(image.length).toBe(3 * 64 * 64);
  expect([...image.subarray(-3)]).toEqual([1, 2, 3]);
});

test('the result owns its memory', async () => {
  const image = await cover(ramp(4, 40), { width: 4, height: 4, crop: 'random', flip: false, random: sequence(0.9, 0.5) });
  expect(image.buffer.byteLength).toBe(48);
});

test('low resolution: the same square, antialiased', async () => {
  const { data } = ramp(64, 64);
  expect(await lowResolution(data, { width: 64, height: 64 }, 4, 'bicubic')).toEqual(await addon.resizePixels(data, 64, 64, 3, 16, 16, 'bicubic'));
});
