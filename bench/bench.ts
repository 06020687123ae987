// One measurement with random weights, e.g. `npm run bench -- unet-step --config IF-I-L --dtype bf16 --json`.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { addon, type DType } from '../lib/addon.js';
import { parseT5Config, parseUNetConfig, readJson, type T5Config, type UNetConfig } from '../lib/models/config.js';
import { T5Encoder } from '../lib/models/t5-encoder.js';
import { UNet } from '../lib/models/unet.js';
import { Tensor } from '../lib/tensor.js';
import { PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';

const USAGE = `usage: npm run bench -- KIND [options]
  unet-step  --config IF-I-M|IF-I-L|IF-I-XL|IF-II-L|DIR   one forward pass; --batch N (2) --size PX (trained size)
  t5         --config T5-XXL|DIR                           one encoding of 77 tokens; --batch N (2)
  gemm       --shape M,N,K                                 one linear layer
  conv       --shape BATCH,SIZE,IN,OUT                     one 3×3 convolution
  --dtype f32|bf16 (bf16)  --threads N (0 = all cores)  --runs N (5)  --json`;

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    config: { type: 'string' }, dtype: { type: 'string', default: 'bf16' }, batch: { type: 'string', default: '2' },
    size: { type: 'string' }, threads: { type: 'string', default: '0' }, runs: { type: 'string', default: '5' },
    shape: { type: 'string' }, json: { type: 'boolean', default: false },
  },
});
const kind = positionals[0];
const dtype = values.dtype as DType;
const device = 'cpu:0';
const batch = positive(values.batch, '--batch');
const runs = positive(values.runs, '--runs');

function positive(text: string, name: string): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value > 0)) stop(`${name}: expected a positive integer, got "${text}"`);
  return value;
}
function stop(message: string): never {
  console.error(`bench: ${message}\n${USAGE}`);
  process.exit(2);
}
if (dtype !== 'f32' && dtype !== 'bf16') stop(`--dtype: expected f32 or bf16, got "${values.dtype}"`);
addon.setThreads(device, Number(values.threads));

interface Measurement { what: Record<string, unknown>; seconds: number[]; flop: number }

async function timed(run: () => Promise<void>): Promise<number[]> {
  await run(); // warm-up: touches every page
  const seconds: number[] = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await run();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds;
}

async function config(component: 'unet' | 'text_encoder'): Promise<unknown> {
  const name = values.config ?? stop('--config is missing');
  const named = JSON.parse(readFileSync(new URL('model-configs.json', import.meta.url), 'utf8')) as Record<string, unknown>;
  return named[name] ?? readJson(path.join(name, component, 'config.json'));
}

async function unetStep(): Promise<Measurement> {
  const parsed: UNetConfig = parseUNetConfig(await config('unet'), values.config!);
  const size = values.size ? positive(values.size, '--size') : parsed.sampleSize ?? 64;
  const plan = await UNet.plan(parsed, dtype, batch, size, size, PROMPT_TOKENS, false);
  const unet = await UNet.random(parsed, { dtype, device });
  const generator = addon.generatorCreate(0n);
  const x = new Tensor(await addon.randn(generator, [batch, parsed.inChannels, size, size], device));
  const text = Tensor.from(new Float32Array(batch * PROMPT_TOKENS * parsed.encoderHidDim).map((_, i) => Math.sin(i)), [batch, PROMPT_TOKENS, parsed.encoderHidDim], device);
  const cond = await unet.prepare(text);
  const timesteps = new Array<number>(batch).fill(500);
  const labels = parsed.classEmbedType ? new Array<number>(batch).fill(250) : undefined;
  const seconds = await timed(async () => (await unet.forward(x, timesteps, cond, labels)).dispose());
  return { what: { config: values.config, batch, size, ...unet.info, plannedBytes: plan.weightBytes + plan.activationBytes }, seconds, flop: plan.flops };
}

async function t5(): Promise<Measurement> {
  const parsed: T5Config = parseT5Config(await config('text_encoder'), values.config!);
  const plan = await T5Encoder.plan(parsed, dtype, batch, PROMPT_TOKENS);
  const encoder = await T5Encoder.random(parsed, { dtype, device });
  const ids = new Int32Array(batch * PROMPT_TOKENS).map((_, i) => (i * 7919) % parsed.vocabSize);
  const mask = new Int32Array(ids.length).fill(1);
  const seconds = await timed(async () => (await encoder.forward(ids, mask, batch)).dispose());
  return { what: { config: values.config, batch, tokens: PROMPT_TOKENS, ...encoder.info }, seconds, flop: plan.flops };
}

function shape(count: number): number[] {
  const numbers = (values.shape ?? stop('--shape is missing')).split(',').map((part) => positive(part, '--shape'));
  return numbers.length === count ? numbers : stop(`--shape: expected ${count} numbers`);
}

async function gemm(): Promise<Measurement> {
  const [m, n, k] = shape(3) as [number, number, number];
  return { what: { m, n, k }, seconds: await addon.benchLinear(m, n, k, dtype, runs), flop: 2 * m * n * k };
}

async function conv(): Promise<Measurement> {
  const [b, px, cin, cout] = shape(4) as [number, number, number, number];
  return { what: { batch: b, size: px, in: cin, out: cout }, seconds: await addon.benchConv(b, px, cin, cout, dtype, runs), flop: 2 * b * px * px * 9 * cin * cout };
}

const kinds: Record<string, () => Promise<Measurement>> = { 'unet-step': unetStep, t5, gemm, conv };
const measure = kinds[kind ?? ''] ?? stop(`unknown measurement "${kind ?? ''}"`);
const { what, seconds, flop } = await measure();
const sorted = [...seconds].sort((a, b) => a - b);
const median = sorted[Math.floor(sorted.length / 2)]!;
const result = {
  kind, ...what, dtype, median_s: median, min_s: sorted[0], runs, gflop: flop / 1e9, gflops: flop / median / 1e9,
  peak_rss_bytes: process.resourceUsage().maxRSS * 1024, isa: addon.cpuInfo().isa, threads: addon.getThreads(device),
};
if (values.json) console.log(JSON.stringify(result));
else for (const [name, value] of Object.entries(result)) console.log(`${name.padEnd(16)} ${typeof value === 'number' ? Number(value.toPrecision(6)) : value}`);
