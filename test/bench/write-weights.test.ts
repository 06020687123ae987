// A folder of random weights as the benchmarks write it: sharded, found, loaded and drawn from like any other.
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { findWeights } from '../../lib/weights/folder.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';

const run = promisify(execFile);
const write = (...args: string[]): Promise<unknown> => run(process.execPath, ['--import', 'tsx', 'bench/write-weights.ts', ...args]);
let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'if-weights-'));
  await write('--config', golden('tiny-if-I'), '--out', path.join(dir, 'I'), '--shard-gb', '0.0005');
  await write('--config', golden('tiny-if-II'), '--out', path.join(dir, 'II'), '--dtype', 'f16');
}, 60_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test('shards of at most the given size, and their index', async () => {
  const unet = path.join(dir, 'I', 'unet');
  const original = readSafetensors(golden('tiny-if-I', 'unet', 'diffusion_pytorch_model.safetensors'));
  const { files, index } = await findWeights(unet, 'unet');
  expect(files.map((file) => path.basename(file))).toEqual(files.map((_, i) => `diffusion_pytorch_model-${String(i + 1).padStart(5, '0')}-of-${String(files.length).padStart(5, '0')}.safetensors`));
  expect(files.length).toBeGreaterThan(2);
  const written = new Map(files.flatMap((file) => {
    const tensors = readSafetensors(file);
    const elements = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    expect(elements * 2).toBeLessThanOrEqual(500_000);
    for (const name of tensors.keys()) expect(index!.get(name)).toBe(file);
    return [...tensors];
  }));
  expect([...written.keys()].sort()).toEqual([...original.keys()].sort());
  for (const [name, { shape, dtype }] of written) expect([name, shape, dtype]).toEqual([name, original.get(name)!.shape, 'BF16']);
  const { metadata, weight_map } = JSON.parse(readFileSync(path.join(unet, 'diffusion_pytorch_model.safetensors.index.json'), 'utf8')) as { metadata: { total_size: number }; weight_map: object };
  expect(metadata.total_size).toBe(2 * [...original.values()].reduce((sum, { data }) => sum + data.length, 0));
  expect(Object.keys(weight_map)).toHaveLength(original.size);
});

test('a single file where everything fits, with values of the right size', () => {
  expect(readdirSync(path.join(dir, 'II', 'unet')).sort()).toEqual(['config.json', 'diffusion_pytorch_model.safetensors']);
  expect(readdirSync(path.join(dir, 'II')).sort()).toEqual(['image_noising_scheduler', 'model_index.json', 'scheduler', 'unet']);
  const tensors = readSafetensors(path.join(dir, 'II', 'unet', 'diffusion_pytorch_model.safetensors'));
  const { shape, dtype } = tensors.get('mid_block.resnets.0.conv1.weight')!;
  expect(dtype).toBe('F16');
  const values = floats(tensors, 'mid_block.resnets.0.conv1.weight');
  const fanIn = shape.slice(1).reduce((a, b) => a * b, 1);
  const variance = values.reduce((sum, v) => sum + v * v, 0) / values.length;
  // N(0, 1/fan_in): the relative deviation of the variance of n values is sqrt(2/n), 5 of them
  expect(Math.abs(variance * fanIn - 1)).toBeLessThanOrEqual(5 * Math.sqrt(2 / values.length));
});

test('both folders load and draw', async () => {
  const cascade = await Cascade.load({ stage1: path.join(dir, 'I'), stage2: path.join(dir, 'II'), dtype: 'bf16', cacheDir: null });
  const { images } = await cascade.generate({ prompt: 'a red apple', seed: 1, timesteps: [2, 2] });
  expect(images.shape[1]).toBe(3);
  expect(images.data.every(Number.isFinite)).toBe(true);
  expect(new Set(images.data).size).toBeGreaterThan(1000);
});

test('wrong arguments', async () => {
  for (const [args, message] of [
    [['--config', 'IF-I-M'], /--out is missing/],
    [['--config', 'IF-I-M', '--out', dir, '--dtype', 'f64'], /--dtype: expected bf16, f16 or f32, got "f64"/],
    [['--config', path.join(dir, 'none'), '--out', dir], /none.*no such file/],
  ] as [string[], RegExp][]) await expect(write(...args)).rejects.toMatchObject({ stderr: expect.stringMatching(message) });
});
