#!/usr/bin/env node
import { Command, InvalidArgumentError } from 'commander';
import { readTrainingConfig } from '../training/config-file.js';
import { train } from '../training/trainer.js';
import { packageVersion, runCli } from './run.js';
import { TrainingReport } from './training-report.js';

const EXAMPLES = `
Examples:
  $ if-train configs/if_emoji_noto.ts
  $ if-train configs/if_emoji_noto.ts --set optimizer.lr=1e-5 --set batchSize=8 --out runs/lower
  $ if-train configs/if_emoji_noto.ts --resume
  $ if-sample "a red apple" --stage1 runs/if_emoji_noto

The configuration is a TypeScript, JavaScript or JSON file; see defineConfig. The folder of the run (--out) gets checkpoints,
previews, metrics.jsonl, TensorBoard files, and at the end the pipeline that if-sample draws from. Ctrl-C finishes the step
and writes a checkpoint.`;

interface Flags {
  set: string[];
  resume: boolean;
  out?: string;
  devices?: string[];
  steps?: number;
  threads?: number;
  cache: boolean;
  verbose: boolean;
}

function whole(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('expected a whole number.');
  return Number(text);
}

const program = new Command('if-train')
  .description('Trains a stage of a DeepFloyd IF cascade, from its weights or from scratch.')
  .argument('<config>', 'training configuration')
  .option('--set <key=value>', 'changes one value of the configuration, e.g. optimizer.lr=1e-5; may be repeated', (text: string, before: string[]) => [...before, text], [])
  .option('--resume', 'goes on after the newest checkpoint in the folder of the run', false)
  .option('--out <dir>', 'folder of the run (default: what the configuration says, else runs/NAME)')
  .option('--device, --devices <name,…>', 'one replica of the model per device, e.g. cuda or cuda:0,cuda:1', (text: string) => text.split(',').map((name) => name.trim()))
  .option('--steps <n>', 'length of the run', whole)
  .option('--threads <n>', 'CPU threads per device, 0 = the cores shared among them', whole)
  .option('--no-cache', 'keeps neither prompt embeddings nor drawn emojis on disk')
  .option('--verbose', 'prints the memory plan', false)
  .version(packageVersion())
  .addHelpText('after', EXAMPLES);

await runCli(program, async (signal) => {
  const { set, resume, out, devices, steps, threads, cache, verbose } = program.opts<Flags>();
  const config = await readTrainingConfig(program.args[0]!, set, {
    ...(out === undefined ? {} : { out }), ...(devices ? { devices } : {}), ...(threads === undefined ? {} : { threads }),
    ...(steps === undefined ? {} : { steps, epochs: undefined }),
  });
  const report = new TrainingReport(process.stderr, verbose);
  signal.addEventListener('abort', report.stopping, { once: true });
  const dir = await train(config, { resume, signal, onEvent: report.onEvent, ...(cache ? {} : { cacheDir: null }) }).finally(() => report.end());
  console.log(dir);
});
