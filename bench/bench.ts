// One measurement, e.g. `npm run bench -- unet-step --config IF-I-L --dtype bf16 --json`: random weights for a name, those on
// the disk for a folder.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { addon, type Precision, type SampleDType } from '../lib/addon.js';
import { resolveDevice } from '../lib/device.js';
import { IFError } from '../lib/errors.js';
import { parseT5Config, parseUNetConfig, type T5Config, type UNetConfig } from '../lib/models/config.js';
import { T5Encoder, textDType } from '../lib/models/t5-encoder.js';
import { UNet } from '../lib/models/unet.js';
import { Tensor } from '../lib/tensor.js';
import { PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { findWeights } from '../lib/weights/folder.js';
import { componentConfig, namedConfig } from './configs.js';
import { trainStep } from './train-step.js';

const USAGE = `usage: npm run bench -- KIND [options]
  unet-step  --config IF-I-M|IF-I-L|IF-I-XL|IF-II-L|DIR   one forward pass; --batch N (2) --size PX (trained size)
  t5         --config T5-XXL|DIR                           one encoding of 77 tokens; --batch N (2); --layers N: the first ones
             a pipeline folder DIR: its weights, with load_s, the seconds to load them
  train-step --config IF-I-M|…|DIR                         one optimizer step from random weights; --batch N --size PX --checkpointing --ema
             --lora RANK: of LoRA factors on the frozen model
  gemm       --shape M,N,K                                 one linear layer
  conv       --shape BATCH,SIZE,IN,OUT                     one 3×3 convolution
  --exact | --fast   convolutions as direct sums, or in their fastest form (unet-step, train-step, conv)
  --dtype f32|bf16 (bf16), on cuda also f16 but for t5 and train-step; t5 and gemm: int8, weights only, multiplied in bf16
  --device cpu|cuda|cuda:N (cpu)  --threads N (0 = all cores)  --runs N (5)  --json`;

// wrong arguments and everything that the library refuses: one line, no stack
process.on('uncaughtException', (error: Error & { code?: string }) => {
  if (error instanceof IFError || error.code?.startsWith('ERR_PARSE_ARGS')) stop(error.message);
  console.error(error);
  process.exit(1);
});

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    config: { type: 'string' }, dtype: { type: 'string', default: 'bf16' }, batch: { type: 'string', default: '2' },
    size: { type: 'string' }, device: { type: 'string', default: 'cpu' }, threads: { type: 'string', default: '0' }, runs: { type: 'string', default: '5' },
    shape: { type: 'string' }, layers: { type: 'string' }, json: { type: 'boolean', default: false },
    exact: { type: 'boolean', default: false }, fast: { type: 'boolean', default: false }, checkpointing: { type: 'boolean', default: false }, ema: { type: 'boolean', default: false },
    lora: { type: 'string' },
  },
});
const kind = positionals[0];
const int8Weights = values.dtype === 'int8' && (kind === 't5' || kind === 'gemm');
const dtype = (int8Weights ? 'bf16' : values.dtype) as SampleDType;
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
const device = resolveDevice(values.device);
if (values.exact && values.fast) stop('--exact and --fast: give one of them');
const precision: Precision = values.exact ? 'exact' : values.fast ? 'fast' : 'default';
const half = dtype === 'f16' && kind !== 't5' && kind !== 'train-step' && values.device.startsWith('cuda');
if (dtype !== 'f32' && dtype !== 'bf16' && !half) stop(`--dtype: expected f32 or bf16, or f16 of networks and products on cuda, got "${dtype}"`);
if (positionals.length !== 1) stop(`expected one KIND, got ${positionals.length}`);
if (!/^\d+$/.test(values.threads)) stop(`--threads: expected a whole number, got "${values.threads}"`);
addon.setThreads(device, Number(values.threads));

interface Measurement { what: Record<string, unknown>; seconds: number[]; flop: number; pageFaults?: number[] }

async function timed(run: () => Promise<void>): Promise<{ seconds: number[]; pageFaults: number[] }> {
  await run(); // warm-up: touches every page
  const seconds: number[] = [];
  const pageFaults: number[] = []; // of the whole process: Node has a few of its own
  for (let i = 0; i < runs; i++) {
    const faults = process.resourceUsage().minorPageFault;
    const start = performance.now();
    await run();
    seconds.push((performance.now() - start) / 1000);
    pageFaults.push(process.resourceUsage().minorPageFault - faults);
  }
  return { seconds, pageFaults };
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

interface Loaded<Model> { model: Model; facts: Record<string, number> }

/** The weights of a pipeline folder, or random ones for a named configuration. */
async function loaded<Model>(name: string, component: 'unet' | 'text_encoder', load: (files: string[]) => Promise<Model>, random: () => Promise<Model>): Promise<Loaded<Model>> {
  if (namedConfig(name)) return { model: await random(), facts: {} };
  const { files } = await findWeights(path.join(name, component), component);
  const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
  const fileBytes = sizes.reduce((sum, size) => sum + size, 0);
  const started = performance.now();
  const model = await load(files);
  const seconds = (performance.now() - started) / 1000;
  const facts = { file_bytes: fileBytes, load_s: seconds, load_gb_per_s: fileBytes / seconds / 1e9, load_peak_rss_bytes: peakRss(), loaded_rss_bytes: process.memoryUsage.rss() };
  return { model, facts };
}

function peakRss(): number {
  return process.resourceUsage().maxRSS * 1024;
}

async function unetStep(): Promise<Measurement> {
  const name = values.config ?? stop('--config is missing');
  const parsed: UNetConfig = parseUNetConfig(await componentConfig(name, 'unet'), name);
  const size = values.size ? positive(values.size, '--size') : parsed.sampleSize ?? 64;
  const plan = await UNet.plan(parsed, dtype, batch, size, size, PROMPT_TOKENS, false, precision, device);
  const { model: unet, facts } = await loaded(name, 'unet', (files) => UNet.load(parsed, files, { dtype, device, precision }), () => UNet.random(parsed, { dtype, device, precision }));
  const generator = addon.generatorCreate(0n);
  const x = new Tensor(await addon.randn(generator, [batch, parsed.inChannels, size, size], device));
  const text = Tensor.from(new Float32Array(batch * PROMPT_TOKENS * parsed.encoderHidDim).map((_, i) => Math.sin(i)), [batch, PROMPT_TOKENS, parsed.encoderHidDim], device);
  const cond = await unet.prepare(text);
  const timesteps = new Array<number>(batch).fill(500);
  const labels = parsed.classEmbedType ? new Array<number>(batch).fill(250) : undefined;
  const times = await timed(async () => (await unet.forward(x, timesteps, cond, labels)).dispose());
  return { what: { config: name, batch, size, precision, ...unet.info, ...facts, plannedBytes: plan.weightBytes + plan.activationBytes }, ...times, flop: plan.flops };
}

async function t5(): Promise<Measurement> {
  const name = values.config ?? stop('--config is missing');
  const whole: T5Config = parseT5Config(await componentConfig(name, 'text_encoder'), name);
  const parsed = values.layers ? { ...whole, numLayers: positive(values.layers, '--layers') } : whole;
  const type = textDType(dtype);
  const plan = await T5Encoder.plan(parsed, type, int8Weights, batch, PROMPT_TOKENS, device);
  const { model: encoder, facts } = await loaded(name, 'text_encoder', (files) => T5Encoder.load(parsed, files, { dtype: type, int8Weights, device }), () => T5Encoder.random(parsed, { dtype: type, int8Weights, device }));
  const ids = new Int32Array(batch * PROMPT_TOKENS).map((_, i) => (i * 7919) % parsed.vocabSize);
  const mask = new Int32Array(ids.length).fill(1);
  const times = await timed(async () => (await encoder.forward(ids, mask, batch)).dispose());
  return { what: { config: name, layers: parsed.numLayers, batch, tokens: PROMPT_TOKENS, ...encoder.info, ...facts, plannedBytes: plan.weightBytes + plan.activationBytes }, ...times, flop: plan.flops };
}

async function training(): Promise<Measurement> {
  const { what, step, flop } = await trainStep({
    config: values.config ?? stop('--config is missing'), dtype, device, batch, size: values.size ? positive(values.size, '--size') : undefined,
    precision, checkpointing: values.checkpointing, ema: values.ema, lora: values.lora ? positive(values.lora, '--lora') : undefined,
  });
  const times = await timed(step);
  return { what, ...times, flop: flop() };
}

function shape(count: number): number[] {
  const numbers = (values.shape ?? stop('--shape is missing')).split(',').map((part) => positive(part, '--shape'));
  return numbers.length === count ? numbers : stop(`--shape: expected ${count} numbers`);
}

async function gemm(): Promise<Measurement> {
  const [m, n, k] = shape(3) as [number, number, number];
  return { what: { m, n, k }, seconds: await addon.benchLinear(m, n, k, dtype, int8Weights, runs, device), flop: 2 * m * n * k };
}

async function conv(): Promise<Measurement> {
  const [b, px, cin, cout] = shape(4) as [number, number, number, number];
  return { what: { batch: b, size: px, in: cin, out: cout, precision }, seconds: await addon.benchConv(b, px, cin, cout, dtype, precision, runs, device), flop: 2 * b * px * px * 9 * cin * cout };
}

const kinds: Record<string, () => Promise<Measurement>> = { 'unet-step': unetStep, 'train-step': training, t5, gemm, conv };
const measure = Object.hasOwn(kinds, kind!) ? kinds[kind!]! : stop(`unknown measurement "${kind}"`);
const { what, seconds, flop, pageFaults } = await measure();
const result = {
  kind, ...what, dtype: values.dtype, median_s: median(seconds), min_s: Math.min(...seconds), runs, gflop: flop / 1e9, gflops: flop / median(seconds) / 1e9,
  ...(pageFaults ? { page_faults: median(pageFaults) } : {}),
  peak_rss_bytes: peakRss(), isa: addon.cpuInfo().isa, threads: addon.getThreads(device),
};
if (values.json) console.log(JSON.stringify(result));
else for (const [name, value] of Object.entries(result)) console.log(`${name.padEnd(16)} ${typeof value === 'number' ? Number(value.toPrecision(6)) : value}`);
