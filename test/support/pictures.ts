// Folders that go away after the test, and pictures made for it.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { onTestFinished } from 'vitest';

/** A new folder, removed when the running test has ended. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'if-test-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Pixels of any picture: channel values by column and row. */
export function drawn(width: number, height: number, channels: 1 | 2 | 3 | 4, value: (x: number, y: number, c: number) => number): Sharp {
  const data = Buffer.alloc(width * height * channels);
  for (let i = 0; i < data.length; i++) data[i] = value(Math.floor(i / channels) % width, Math.floor(i / channels / width), i % channels);
  return sharp(data, { raw: { width, height, channels } });
}

/** One colour. */
export function plain(width: number, height: number, [r, g, b]: readonly [number, number, number]): Sharp {
  return drawn(width, height, 3, (_x, _y, c) => [r, g, b][c]!);
}

/** Numbers in [0, 1) from a fixed list, then an error. */
export function sequence(...values: number[]): () => number {
  const left = [...values];
  return () => {
    if (left.length === 0) throw new Error('more random numbers were drawn than expected');
    return left.shift()!;
  };
}
