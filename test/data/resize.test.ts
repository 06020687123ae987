// The boundary of the antialiased resize; its bytes are compared with Pillow's in test/native/resize_test.cpp too.
import { expect, test } from 'vitest';
import { addon } from '../../lib/addon.js';
import { expectIFError } from '../support/expect-error.js';
import { golden, readSafetensors } from '../support/safetensors.js';

test('Pillow bytes come through the boundary', async () => {
  const file = readSafetensors(golden('resize', 'pillow.safetensors'));
  const input = file.get('input.u8')!;
  const [height, width] = input.shape as [number, number];
  const got = await addon.resizePixels(input.data as Uint8Array, width, height, 3, 64, 48, 'bilinear');
  expect(got).toEqual(file.get('bilinear.64x48.u8')!.data);
});

test('resizes in flight keep their pixels, and the event loop goes on', async () => {
  const [width, height] = [3000, 2000];
  const running = Array.from({ length: 6 }, (_, i) => addon.resizePixels(new Uint8Array(3 * width * height).fill(40 * i), width, height, 3, 90, 60, 'lanczos'));
  const began = performance.now();
  let longest = 0;
  let done = false;
  const watch = (async () => {
    for (let last = performance.now(); !done;) {
      await new Promise((resolve) => setImmediate(resolve));
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
    }
  })();
  const results = await Promise.all(running);
  const total = performance.now() - began;
  done = true;
  await watch;
  for (const [i, result] of results.entries()) expect(result.every((value) => value === 40 * i)).toBe(true);
  // done on the JavaScript thread, nothing would have run in between
  expect(longest).toBeLessThan(total / 2);
});

test('bad arguments are refused', async () => {
  const pixels = new Uint8Array(12);
  const resize = (...[data, width, height, channels, newWidth, newHeight, filter]: unknown[]) => () =>
    addon.resizePixels(data as Uint8Array, width as number, height as number, channels as number, newWidth as number, newHeight as number, filter as 'box');
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 2, 2, 3, 1, 1, 'nearest'), /filter must be box, bilinear, bicubic or lanczos, got "nearest"/);
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 2, 2, 4, 1, 1, 'box'), /2 × 2 × 4 needs 16 bytes, got 12/);
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 2, 2, 5, 1, 1, 'box'), /channels: expected an integer in \[1, 4\], got 5/);
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 0, 2, 3, 1, 1, 'box'), /width: expected an integer/);
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 2, 2, 3, 1.5, 1, 'box'), /newWidth: expected an integer/);
  await expectIFError('INVALID_ARGUMENT', resize(pixels, 2, 2, 3, 2 ** 20, 2 ** 20, 'box'), /the new picture must be at most/);
  await expectIFError('INVALID_ARGUMENT', resize(new Float32Array(12), 2, 2, 3, 1, 1, 'box'), /pixels must be a Uint8Array/);
  await expectIFError('INVALID_ARGUMENT', resize(undefined, 2, 2, 3, 1, 1, 'box'), /pixels must be a Uint8Array/);
});
