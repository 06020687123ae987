// How fast a Parquet set much larger than what may be kept streams into training, in the random order of a run, and how much
// memory the process takes: `npm run bench:parquet -- --pictures 100000 --side 256 --seconds 30`. The set is made in a
// temporary folder and removed; its files are read from the system's cache where that is large enough.
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { openDataset } from '../lib/data/open.js';
import { StatelessRandom } from '../lib/stateless-random.js';
import { Loader, prefetchCapacity } from '../lib/training/loader.js';
import { SampleOrder } from '../lib/training/sample-order.js';
import { writeParquet } from './write-parquet.js';

const { values } = parseArgs({ options: {
  pictures: { type: 'string', default: '100000' }, side: { type: 'string', default: '256' }, size: { type: 'string', default: '64' }, seconds: { type: 'string', default: '30' },
  batch: { type: 'string', default: '8' }, files: { type: 'string', default: '10' }, dir: { type: 'string', default: os.tmpdir() },
} });
const [pictures, side, size, seconds, batch, files] = [values.pictures, values.side, values.size, values.seconds, values.batch, values.files].map(Number) as [number, number, number, number, number, number];
const DISTINCT = 200; // pictures; reading and decoding do not see that they come again

const random = new StatelessRandom(1n);
/** Smooth colours with noise: about the bytes per pixel of a photograph. */
async function picture(index: number): Promise<Buffer> {
  const small = Buffer.from(Array.from({ length: 3 * 64 }, (_, i) => Math.floor(256 * random.uniform(1, index, i))));
  const noise = Buffer.from(Array.from({ length: side * side }, (_, i) => 112 + Math.floor(32 * random.uniform(2, index, i))));
  const smooth = await sharp(small, { raw: { width: 8, height: 8, channels: 3 } }).resize(side, side, { kernel: 'cubic' }).png().toBuffer();
  return sharp(smooth).composite([{ input: await sharp(noise, { raw: { width: side, height: side, channels: 1 } }).toColourspace('srgb').png().toBuffer(), blend: 'soft-light' }]).jpeg({ quality: 85 }).toBuffer();
}

const dir = mkdtempSync(path.join(values.dir, 'if-parquet-'));
try {
  const jpegs: Buffer[] = [];
  for (let i = 0; i < DISTINCT; i++) jpegs.push(await picture(i));
  mkdirSync(path.join(dir, 'set'));
  const perFile = Math.ceil(pictures / files);
  let bytes = 0;
  for (let f = 0; f * perFile < pictures; f++) {
    const file = path.join(dir, 'set', `train-${String(f).padStart(5, '0')}-of-${String(files).padStart(5, '0')}.parquet`);
    await writeParquet(file, Math.min(perFile, pictures - f * perFile), (i) => ({ image: jpegs[i % DISTINCT]!, text: `picture ${f * perFile + i}` }));
    bytes += statSync(file).size;
  }

  const dataset = await openDataset({ type: 'parquet', path: path.join(dir, 'set') }, { base: dir, cacheDir: path.join(dir, 'cache') });
  const order = new SampleOrder(random, Uint32Array.from({ length: dataset.length }, (_, i) => i), 0);
  const loader = new Loader({ sources: [{ dataset, order, weight: 1 }], size, random, start: 0, capacity: prefetchCapacity(batch, size) });
  const started = performance.now();
  const marks: { at: number; count: number }[] = [];
  let peak = 0;
  for (let count = 0, at = 0; at < seconds; ) {
    count += (await loader.next(batch)).length;
    at = (performance.now() - started) / 1000;
    peak = Math.max(peak, process.memoryUsage.rss());
    marks.push({ at, count });
  }
  await loader.close();
  await dataset.close();
  const half = marks.find(({ at }) => at >= seconds / 2)!;
  const last = marks.at(-1)!;
  console.log(JSON.stringify({
    pictures, bytes, side, size, streamed: last.count, seconds: last.at, picturesPerSecond: last.count / last.at,
    picturesPerSecondOfLaterHalf: (last.count - half.count) / (last.at - half.at), firstBatchSeconds: marks[0]!.at, peakMegabytes: peak / 1e6,
  }));
} finally {
  rmSync(dir, { recursive: true, force: true });
}
