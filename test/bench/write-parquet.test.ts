// The Parquet files of the benchmark are such as training reads; the benchmark runs and reports.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { writeParquet } from '../../bench/write-parquet.js';
import { openDataset } from '../../lib/data/open.js';
import { plain, temporaryFolder } from '../support/pictures.js';

test('rows of several groups, read back in any order', async () => {
  const folder = await temporaryFolder();
  const pictures = await Promise.all(Array.from({ length: 25 }, (_, i) => plain(4, 4, [i, 2 * i, 3 * i]).png().toBuffer()));
  await writeParquet(path.join(folder, 'a.parquet'), 25, (i) => ({ image: pictures[i]!, text: `${'ü'.repeat(i)}${i}` }), 10);
  const dataset = await openDataset({ type: 'parquet', path: folder, flip: false }, { base: '/', cacheDir: null });
  expect(dataset.length).toBe(25);
  for (const i of [24, 0, 9, 10, 19, 20]) {
    const sample = (await dataset.load(i, { width: 4, height: 4, random: () => 0 }))!;
    expect([sample.caption, ...sample.image.subarray(0, 3)]).toEqual([`${'ü'.repeat(i)}${i}`, i, 2 * i, 3 * i]);
  }
  await dataset.close();
});

test('the benchmark', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', 'bench/parquet-stream.ts', '--pictures', '90', '--files', '2', '--side', '32', '--size', '16', '--seconds', '0.2', '--dir', await temporaryFolder()]);
  const result = JSON.parse(stdout) as Record<string, number>;
  expect(result).toMatchObject({ pictures: 90, side: 32, size: 16 });
  expect(result['streamed']).toBeGreaterThan(0);
  expect(result['peakMegabytes']).toBeGreaterThan(10);
});
