#!/usr/bin/env node
import { Command, InvalidArgumentError, Option } from 'commander';
import type { SampleDType, T5DType } from '../addon.js';
import { IFError } from '../errors.js';
import { Cascade, randomSeed, type GenerateOptions } from '../pipelines/cascade.js';
import { parseLoraSpec, type LoraSpec } from '../weights/lora.js';
import { packageVersion, runCli } from './run.js';
import { outputPlan, saveResult } from './output.js';
import { ProgressReport } from './progress-report.js';

const EXAMPLES = `
Examples:
  $ if-sample "a red apple"
  $ if-sample "a red apple" "a lemon" --seed 7 --num-images 4 --out fruit.png
  $ if-sample "a photo of a kangaroo" --stage1 IF-I-XL-v1.0 --stage2 IF-II-L-v1.0 --dtype bf16 --out kangaroo.png
  $ if-sample "a photo of sks dog" --stage1 IF-I-XL-v1.0 --lora runs/dog:0.8
  $ if-sample "a red apple" --steps 50 --guidance 4 --out apple.safetensors

Without --stage1 the embedded cascade if-emoji draws. Folders are diffusers pipeline folders (model_index.json). The
weights of DeepFloyd IF are gated: accept their licence on the model's page, then download the folders.`;

interface Flags {
  stage1?: string;
  stage2?: string;
  stage3?: string;
  lora: Required<LoraSpec>[];
  variant?: 'fp16' | 'bf16';
  negative?: string;
  seed?: bigint;
  steps?: number[];
  timesteps?: string[];
  guidance?: number[];
  noiseLevel?: number;
  height?: number;
  width?: number;
  numImages: number;
  dtype?: SampleDType;
  t5Dtype?: T5DType;
  exact: boolean;
  fast: boolean;
  device: string;
  threads: number;
  out?: string;
  saveStages: boolean;
  cache: boolean;
  verbose: boolean;
}

function list<T>(item: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(',').map((part) => item(part.trim()));
}
function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('expected a number.');
  return value;
}
function integer(text: string): number {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError('expected an integer.');
  return value;
}
function seed(text: string): bigint {
  if (!/^\d{1,20}$/.test(text)) throw new InvalidArgumentError('expected an integer from 0 to 2^64 - 1.');
  return BigInt(text);
}

const program = new Command('if-sample')
  .description('Draws pictures from text with a DeepFloyd IF cascade.')
  .argument('<prompt...>', 'one prompt or several')
  .option('--stage1 <dir>', 'pipeline folder of stage I (default: the embedded if-emoji)')
  .option('--stage2 <dir>', 'pipeline folder of stage II')
  .option('--stage3 <dir>', 'pipeline folder of stage III')
  .option('--lora <dir[:scale]>', 'LoRA adapter of PEFT\'s or diffusers\' layout, e.g. runs/dog:0.8; may be repeated', (text: string, before: Required<LoraSpec>[]) => [...before, parseLoraSpec(text)], [])
  .addOption(new Option('--variant <name>', 'weights of this variant').choices(['fp16', 'bf16']))
  .option('--negative <text>', 'negative prompt, for every stage')
  .option('--seed <n>', "seed, as torch's CPU generator (default: random, printed)", seed)
  .option('--steps <n,…>', 'sampler steps per stage (default: 100,50,50, or what the folder says)', list(integer))
  .option('--timesteps <name,…>', 'named schedule per stage instead: smart27, smart50, smart100, super27, fast27, …', list(String))
  .option('--guidance <w,…>', 'guidance weight per stage (default: 7,4,4, or what the folder says)', list(number))
  .option('--noise-level <t>', 'noise added to the low-resolution picture, 0 to 999 (default: 250)', integer)
  .option('--height <px>', 'height of stage I; later stages enlarge it (IF: 4 times)', integer)
  .option('--width <px>', 'width of stage I', integer)
  .option('--num-images <n>', 'pictures per prompt', integer, 1)
  .addOption(new Option('--dtype <type>', 'arithmetic (default: bf16 on cuda; else f32 if it fits in memory, else bf16); f16: on cuda').choices(['f32', 'bf16', 'f16']))
  .addOption(new Option('--t5-dtype <type>', 'text encoder (default: as --dtype, bf16 for f16); int8: half the memory of bf16').choices(['f32', 'bf16', 'int8']))
  .option('--exact', 'convolutions as direct sums: slower, with less rounding error', false)
  .option('--fast', 'bf16: convolutions in their fastest form, with more rounding error', false)
  .option('--device <name>', 'cpu, cuda or cuda:N', 'cpu')
  .option('--threads <n>', 'CPU threads, 0 = all cores', integer, 0)
  .option('--out <file>', 'FILE.png, or FILE.safetensors (key "images", float32 NCHW in [-1, 1]); default: PROMPT-SEED.png')
  .option('--save-stages', 'write the pictures of every stage', false)
  .option('--no-cache', 'do not keep prompt embeddings on disk')
  .option('--verbose', 'print the memory plan, time and GFLOP/s of every step', false)
  .version(packageVersion())
  .addHelpText('after', EXAMPLES);

await runCli(program, async (signal) => {
  const prompts = program.args;
  const flags = program.opts<Flags>();
  if (flags.steps && flags.timesteps) throw new IFError('INVALID_ARGUMENT', '--steps and --timesteps: give one of them');
  if (flags.exact && flags.fast) throw new IFError('INVALID_ARGUMENT', '--exact and --fast: give one of them');
  const seedUsed = flags.seed ?? randomSeed();
  const plan = await outputPlan(flags.out, prompts[0]!, seedUsed);
  const cascade = await Cascade.load({
    ...pick(flags, ['stage1', 'stage2', 'stage3', 'lora', 'variant', 'dtype', 't5Dtype']),
    precision: flags.exact ? 'exact' : flags.fast ? 'fast' : 'default', device: flags.device, threads: flags.threads, ...(flags.cache ? {} : { cacheDir: null }),
  });
  const report = new ProgressReport(process.stderr, flags.verbose);
  const timesteps = flags.timesteps ?? flags.steps;
  const options: GenerateOptions = {
    prompt: prompts, seed: seedUsed, numImages: flags.numImages, onProgress: report.onProgress, signal,
    ...(flags.negative === undefined ? {} : { negativePrompt: flags.negative }),
    ...(timesteps ? { timesteps } : {}),
    ...pick(flags, ['guidance', 'noiseLevel', 'height', 'width']),
  };
  const result = await cascade.generate(options).finally(() => report.end());
  const files = await saveResult(result, plan, { prompts, negative: flags.negative ?? '', numImages: flags.numImages, saveStages: flags.saveStages });
  for (const file of files) console.log(file);
  console.error(`seed ${result.seed}, ${result.dtype}${result.t5Dtype === result.dtype ? '' : `, T5 ${result.t5Dtype}`}`);
});

/** The given properties that are set. */
function pick<T extends object, K extends keyof T>(from: T, keys: K[]): { [P in K]?: Exclude<T[P], undefined> } {
  return Object.fromEntries(keys.filter((key) => from[key] !== undefined).map((key) => [key, from[key]])) as { [P in K]?: Exclude<T[P], undefined> };
}
