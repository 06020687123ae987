#!/usr/bin/env node
import { Command } from 'commander';
import { IFError } from '../errors.js';
import { packageVersion, runCli } from './run.js';

const program = new Command('if-train')
  .description('Fine-tunes a stage of a DeepFloyd IF cascade.')
  .argument('[config]', 'training configuration')
  .version(packageVersion());

await runCli(program, () => {
  throw new IFError('UNSUPPORTED', `version ${packageVersion()} samples only; training comes in the next version`);
});
