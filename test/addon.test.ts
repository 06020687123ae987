// The boundary: handles, errors, cancellation, a free event loop, environments that end.
import { execFileSync, spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { addon, type DdpmStep, type TensorHandle } from '../lib/addon.js';
import { resolveDevice } from '../lib/device.js';
import { parseUNetConfig, readJson } from '../lib/models/config.js';
import { UNet } from '../lib/models/unet.js';
import { Tensor } from '../lib/tensor.js';
import { expectIFError } from './support/expect-error.js';
import { golden } from './support/safetensors.js';

const DEVICE = 'cpu:0';
const images = { data: Float32Array.from({ length: 2 * 3 * 4 * 5 }, (_, i) => Math.sin(i)), shape: [2, 3, 4, 5] as [number, number, number, number] };

async function smallUNet(): Promise<UNet> {
  const file = golden('tiny-if-I', 'unet', 'config.json');
  return UNet.random(parseUNetConfig(await readJson(file), file), { dtype: 'f32', device: DEVICE });
}

describe('tensors', () => {
  test('pictures go in and come out, NCHW to NHWC and back', async () => {
    using t = await Tensor.fromImages(images, DEVICE);
    expect(t.shape).toEqual([2, 4, 5, 3]);
    const nhwc = await t.toFloat32();
    expect(nhwc[1]).toBe(images.data[20]); // pixel (0, 0), channel 1
    expect(await t.toImages()).toEqual(images);
  });
  test('a wrong number of values, a wrong shape', async () => {
    await expectIFError('INVALID_ARGUMENT', () => Tensor.from(new Float32Array(5), [2, 3], DEVICE), /6 values, got 5/);
    await expectIFError('INVALID_ARGUMENT', () => Tensor.from(new Float32Array(0), [0], DEVICE), /integer in \[1/);
    await expectIFError('INVALID_ARGUMENT', () => Tensor.from(new Float32Array(1), [2 ** 39, 2 ** 39], DEVICE), /too large/);
    await expectIFError('INVALID_ARGUMENT', () => addon.tensorFromFloat32([1] as never, [1], DEVICE), /Float32Array/);
  });
  test('a disposed handle, a handle of another type, no handle', async () => {
    const t = Tensor.from(new Float32Array(1), [1], DEVICE);
    t.dispose();
    await expectIFError('INVALID_ARGUMENT', () => t.shape, /was disposed/);
    const generator = addon.generatorCreate(0n);
    await expectIFError('INVALID_ARGUMENT', () => addon.tensorInfo(generator as never), /expected a Tensor handle/);
    await expectIFError('INVALID_ARGUMENT', () => addon.tensorInfo({} as never), /expected a Tensor handle/);
    await expectIFError('INVALID_ARGUMENT', () => addon.dispose(undefined as never), /handle of this library/);
  });
  test('memory goes back when a handle is disposed', async () => {
    const before = addon.memory(DEVICE).current;
    const t = Tensor.from(new Float32Array(1 << 20), [1 << 20], DEVICE);
    expect(addon.memory(DEVICE).current).toBeGreaterThanOrEqual(before + (1 << 22));
    t.dispose();
    expect(addon.memory(DEVICE).current).toBe(before);
  });
});

describe('commands', () => {
  test('errors inside a command arrive typed', async () => {
    const t = Tensor.from(new Float32Array(6), [2, 3], DEVICE);
    await expectIFError('INVALID_ARGUMENT', () => addon.tensorToImage(t.handle), /nhwc_to_nchw/);
    await expectIFError('NOT_FOUND', () => addon.safetensorsLoad('/nonexistent/file.safetensors'), /nonexistent/);
  });

  test('the event loop stays free during a step', async () => {
    const unet = await smallUNet();
    const x = Tensor.from(new Float32Array(2 * 128 * 128 * 3), [2, 128, 128, 3], DEVICE);
    const cond = await unet.prepare(Tensor.from(new Float32Array(2 * 77 * 64), [2, 77, 64], DEVICE));
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    const started = performance.now();
    for (let i = 0; i < 5 || performance.now() - started < 300; i++) (await unet.forward(x, [1, 2], cond)).dispose();
    const elapsed = performance.now() - started;
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(elapsed / 10 / 3);
  });

  test('a cancel takes effect between two ops, and the queue goes on', async () => {
    const unet = await smallUNet();
    const x = Tensor.from(new Float32Array(2 * 256 * 256 * 3), [2, 256, 256, 3], DEVICE);
    const cond = await unet.prepare(Tensor.from(new Float32Array(2 * 77 * 64), [2, 77, 64], DEVICE));
    const controller = new AbortController();
    const running = unet.forward(x, [1, 2], cond, undefined, controller.signal);
    const waiting = unet.forward(x, [1, 2], cond, undefined, controller.signal);
    setTimeout(() => controller.abort(), 20);
    const started = performance.now();
    await expectIFError('CANCELLED', () => running);
    await expectIFError('CANCELLED', () => waiting);
    expect(performance.now() - started).toBeLessThan(1000);
    expect(await addon.allFinite(x.handle)).toBe(true);
  });

  test('the number of threads cannot change while a command runs', async () => {
    const threads = addon.getThreads(DEVICE);
    const busy = addon.randn(addon.generatorCreate(0n), [8, 3, 512, 512], DEVICE);
    await expectIFError('INVALID_ARGUMENT', () => addon.setThreads(DEVICE, 1), /computing/);
    await busy;
    for (let i = 0; i < 100; i++) {
      await addon.allFinite(Tensor.from(new Float32Array(1), [1], DEVICE).handle);
      addon.setThreads(DEVICE, 1 + (i % 2)); // allowed as soon as everything is awaited
    }
    addon.setThreads(DEVICE, 1);
    expect(addon.getThreads(DEVICE)).toBe(1);
    addon.setThreads(DEVICE, threads);
  });

  test('a step needs its noise generator and whole coefficients', async () => {
    const unet = await smallUNet();
    const cond = await unet.prepare(Tensor.from(new Float32Array(77 * 64), [1, 77, 64], DEVICE));
    const x = Tensor.from(new Float32Array(32 * 32 * 3), [1, 32, 32, 3], DEVICE);
    const step: DdpmStep = {
      sampleScale: 1, outputScale: -1, threshold: 'none', clipRange: 1, ratio: 0.95, maxValue: 1, x0Coef: 1, xCoef: 0,
      addNoise: false, variance: 'fixed', sigma: 0, minLog: 0, maxLog: 0,
    };
    const input = { unet: unet.handle, cond, x: x.handle, lowRes: null as TensorHandle | null, timestep: 5, noiseLevel: 0, guidance: 1, step, generator: addon.generatorCreate(0n) };
    const { x: prev, x0 } = await addon.denoiseStep(input);
    expect(await addon.tensorToFloat32(prev)).toEqual(await addon.tensorToFloat32(x0));
    await expectIFError('INVALID_ARGUMENT', () => addon.denoiseStep({ ...input, step: { ...step, threshold: 'hard' as never } }), /threshold/);
    await expectIFError('INVALID_ARGUMENT', () => addon.denoiseStep({ ...input, step: { ...step, sigma: undefined as never } }), /sigma/);
    await expectIFError('INVALID_ARGUMENT', () => addon.denoiseStep({ ...input, generator: null as never }), /generator/);
  });
});

describe('processes and threads', () => {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const addonFile = (createRequire(import.meta.url)('node-gyp-build') as { resolve(dir: string): string }).resolve(root);
  const busy = `
    const addon = require(${JSON.stringify(addonFile)});
    addon.randn(addon.generatorCreate(1n), [64, 3, 512, 512], 'cpu').catch(() => {});
    addon.randn(addon.generatorCreate(1n), [64, 3, 512, 512], 'cpu').catch(() => {});`;

  test('a process that exits with commands under way ends cleanly', () => {
    // the first command is running when exit is called; Node must neither hang nor crash
    execFileSync(process.execPath, ['-e', `${busy} setTimeout(() => process.exit(0), 50);`], { timeout: 20_000 });
  });
  test('a worker thread can be terminated while its command runs', async () => {
    const worker = new Worker(busy, { eval: true });
    await new Promise((resolve) => worker.once('online', resolve));
    await new Promise((resolve) => setTimeout(resolve, 100));
    await worker.terminate();
    expect(await addon.allFinite(Tensor.from(new Float32Array(1), [1], DEVICE).handle)).toBe(true);
  });
  test('workers that are terminated at any moment while they use the addon', { timeout: 120_000 }, () => {
    // in a child: the fault that this guards against aborts the process
    const script = `
      const { Worker } = require('node:worker_threads');
      const loop = ${JSON.stringify(`const addon = require(${JSON.stringify(addonFile)});
        (async () => { for (;;) {
          const t = addon.tensorFromFloat32(new Float32Array(12), [1, 2, 2, 3], 'cpu');
          addon.tensorInfo(t);
          try { addon.tensorInfo({}); } catch {}
          await addon.allFinite(t, null);
          await addon.tensorToImage(addon.tensorFromFloat32(new Float32Array(1), [1], 'cpu')).catch(() => {});
        } })();`)};
      (async () => {
        for (let i = 0; i < 40; i++) {
          const worker = new Worker(loop, { eval: true });
          await new Promise((resolve) => worker.once('online', resolve));
          await new Promise((resolve) => setTimeout(resolve, (i * 7) % 40));
          await worker.terminate();
        }
      })();`;
    execFileSync(process.execPath, ['-e', script], { timeout: 100_000, stdio: 'pipe' });
  });
  test('a number of threads that the system refuses is an error', () => {
    const script = `const addon = require(${JSON.stringify(addonFile)});
      addon.setThreads('cpu', 1024);
      addon.randn(addon.generatorCreate(1n), [1, 1, 1, 1], 'cpu').then(() => process.exit(3), () => process.exit(4));`;
    const limited = `ulimit -v 6000000; exec "${process.execPath}" -e '${script.replaceAll("'", "'\\''")}'`;
    const { status, signal, stderr } = spawnSync('sh', ['-c', limited], { encoding: 'utf8', timeout: 30_000 });
    expect(signal).toBeNull();
    expect(`${status} ${stderr}`).toMatch(/^1 [^]*could not start 1024 threads/);
  });
});

describe('devices', () => {
  test('names', async () => {
    expect(resolveDevice('cpu')).toBe('cpu:0');
    expect(resolveDevice('cpu:1')).toBe('cpu:1');
    for (const name of ['gpu', 'cpu:', 'cpu:x', 'CPU', '']) await expectIFError('INVALID_ARGUMENT', () => resolveDevice(name), /expected cpu/);
  });
  test('cuda without kernels or device is one clear line', async () => {
    await expectIFError('NOT_BUILT', () => resolveDevice('cuda'), /^cuda:0 cannot be used: [^\n]+$/);
  });
  test('the instruction set is one that the machine has', () => {
    const { isa, supported, cores } = addon.cpuInfo();
    expect(supported).toContain(isa);
    expect(supported).toContain('portable');
    expect(cores).toBeGreaterThanOrEqual(1);
  });
});
