#!/usr/bin/env node
import { Command, InvalidArgumentError, Option } from 'commander';
import { publish } from '../training/publish.js';
import { diffusersToOriginal, originalToDiffusers, type ConvertOptions } from '../weights/convert.js';
import { diffengineToDiffusers } from '../weights/diffengine.js';
import { WEIGHT_DTYPES, type WeightDType } from '../weights/file-dtype.js';
import type { Component, WeightsVariant } from '../weights/folder.js';
import { inspect, isSound } from '../weights/inspect.js';
import { mergeLora, parseLoraSpec, type LoraSpec } from '../weights/lora.js';
import { rewriteModel } from '../weights/rewrite.js';
import { inspectText } from './inspect-text.js';
import { ProgressReport } from './progress-report.js';
import { packageVersion, runCli } from './run.js';

const EXAMPLES = `
Examples:
  $ if-convert original-to-diffusers IF-I-XL-original IF-I-XL --text-encoder t5-v1_1-xxl
  $ if-convert diffusers-to-original IF-I-XL IF-I-XL-original
  $ if-convert diffengine work_dirs/if_l/epoch_50.pth IF-I-L-tuned --base IF-I-L-v1.0
  $ if-convert publish runs/pokemon IF-I-L-pokemon --dtype f16
  $ if-convert merge-lora IF-I-XL IF-I-XL-dog --lora runs/dog:0.8 --dtype bf16
  $ if-convert dtype IF-I-XL IF-I-XL-bf16 --dtype bf16
  $ if-convert inspect IF-I-XL --json

Tensors go from file to file one at a time, bit for bit unless --dtype asks for another type. The output appears when it is
complete; one that is there is kept unless --force is given.`;

interface Flags {
  force: boolean;
  dtype?: WeightDType;
  maxShardSize?: number;
  variant?: WeightsVariant;
  base: string;
  lora: Required<LoraSpec>[];
  textEncoder?: string;
  saveKeys?: Component[];
  json: boolean;
}

/** `10GB`, `500MB`, or a number of bytes; decimal, as in diffusers. */
function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kMGT]?)B?$/i.exec(text.trim());
  const size = match ? Number(match[1]) * { '': 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12 }[match[2]!.toUpperCase()]! : NaN;
  if (!(size >= 1)) throw new InvalidArgumentError('expected a size as 10GB or 500MB.');
  return Math.floor(size);
}

const program = new Command('if-convert')
  .description('Converts and describes checkpoints of DeepFloyd IF.')
  .version(packageVersion())
  .exitOverride() // subcommands inherit what is set before them
  .showHelpAfterError(false)
  .addHelpText('after', EXAMPLES);

type Action = (signal: AbortSignal) => Promise<void>;
let chosen: Action | undefined;

const forceOption = (): Option => new Option('--force', 'replace the output if it is there').default(false);
const dtypeOption = (): Option => new Option('--dtype <type>', 'type of the weights (default: as they are)').choices([...WEIGHT_DTYPES]);
const shards = (): Option => new Option('--max-shard-size <size>', 'split weights into files of at most this size (default: 10GB)').argParser(byteSize);
const saveKeys = (fallback: string): Option => new Option('--save-keys <name...>', `components to write (${fallback})`).choices(['unet', 'text_encoder']);
const variant = (): Option => new Option('--variant <name>', 'take the weights of this variant').choices(['fp16', 'bf16']);

/** Adds a conversion: `run` does it, the output's path is printed. */
function conversion(name: string, description: string, input: string, inputHelp: string, options: Option[], run: (input: string, output: string, options: ConvertOptions, flags: Flags) => Promise<void>): void {
  const command = program.command(name).description(description).argument(input, inputHelp).argument('<out>', 'the new folder');
  for (const option of options) command.addOption(option);
  command.action((from: string, to: string, flags: Flags) => {
    chosen = async (signal) => {
      const report = new ProgressReport(process.stderr, false);
      const { force, dtype, maxShardSize: maxShardBytes } = flags;
      const onProgress = (done: number, total: number): void => report.bytes(to, 'writing', done, total);
      await run(from, to, { force, dtype, maxShardBytes, signal, onProgress }, flags).finally(() => report.end());
      console.log(to);
    };
  });
}

conversion('original-to-diffusers', 'A checkpoint of the original IF code becomes a diffusers folder.', '<in>', 'folder with config.yml and pytorch_model.bin',
  [new Option('--text-encoder <dir>', 'T5 for it: a folder with config.json, weights and spiece.model, or a pipeline folder (default: none)'), dtypeOption(), shards(), forceOption()],
  (from, to, options, flags) => originalToDiffusers(from, to, { ...options, textEncoder: flags.textEncoder }));
conversion('diffusers-to-original', 'The UNet of a diffusers folder becomes a checkpoint of the original IF code.',
  '<in>', 'pipeline folder, or its unet folder', [forceOption()], (from, to, options) => diffusersToOriginal(from, to, options));
conversion('diffengine', 'A checkpoint of diffengine (epoch_N.pth) becomes a diffusers folder.', '<checkpoint>', 'the .pth file',
  [new Option('--base <dir>', 'the diffusers folder that the training started from').makeOptionMandatory(),
    saveKeys('default: all of the base'), dtypeOption(), shards(), forceOption()],
  (from, to, options, flags) => diffengineToDiffusers(from, flags.base, to, { ...options, saveKeys: flags.saveKeys }));
conversion('publish', 'A checkpoint of if-train becomes a diffusers folder.', '<checkpoint>', 'folder of a checkpoint, or of a run (its newest one)',
  [saveKeys('default: both'), dtypeOption(), shards(), forceOption()],
  (from, to, options, flags) => publish(from, to, { ...options, saveKeys: flags.saveKeys }));
conversion('merge-lora', 'LoRA adapters become a part of the weights of a pipeline folder; with a negative scale they are taken out again.', '<in>', 'pipeline folder',
  [new Option('--lora <dir[:scale]>', 'adapter; may be repeated').argParser((text: string, before: Required<LoraSpec>[] = []) => [...before, parseLoraSpec(text)]).makeOptionMandatory(), dtypeOption(), shards(), forceOption()],
  (from, to, options, flags) => mergeLora(from, to, flags.lora, options));
conversion('dtype', 'The same model in another type: a pipeline folder, a component folder, or a single file (to FILE.safetensors).', '<in>', 'folder or file',
  [dtypeOption().makeOptionMandatory(), variant(), shards(), forceOption()], (from, to, options, flags) => rewriteModel(from, to, { ...options, variant: flags.variant }));
conversion('safetensors', 'The same model with .bin files written as .safetensors: a pipeline folder, a component folder, or a single file.', '<in>', 'folder or file',
  [variant(), shards(), forceOption()], (from, to, options, flags) => rewriteModel(from, to, { ...options, variant: flags.variant }));

program.command('inspect').description('Prints configuration, parameter count, types, sizes, and what is missing or unexpected (then the exit code is 1).')
  .argument('<path>', 'folder, .safetensors, .bin, .pt or .pth')
  .option('--json', 'everything, as JSON', false)
  .action((target: string, flags: Flags) => {
    chosen = async () => {
      const report = await inspect(target);
      console.log(flags.json ? JSON.stringify(report, null, 2) : inspectText(report));
      if (!isSound(report)) process.exitCode = 1;
    };
  });

await runCli(program, (signal) => chosen?.(signal));
