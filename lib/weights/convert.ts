// Between DeepFloyd's own checkpoints (config.yml, pytorch_model.bin) and diffusers folders, driven by tensor-map.ts. Tensors
// are copied bit for bit unless another type is asked for, and go from file to file one at a time.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import { readJson } from '../models/json.js';
import { parseUNetConfig, type UNetConfig } from '../models/unet-config.js';
import { unetConfigJson } from '../models/unet-config-json.js';
import type { WeightDType } from './file-dtype.js';
import { findWeights, listFolder, weightsBaseName } from './folder.js';
import { originalConfigYaml, parseOriginalConfig } from './original-config.js';
import { writeFolder, type OutputOptions } from './output-path.js';
import { denoisingScheduler, imageNoisingScheduler, pipelineIndex, writeJson } from './pipeline-files.js';
import { copyTextEncoder } from './rewrite.js';
import { writeModel, type WriteOptions, type WrittenTensor } from './safetensors-writer.js';
import { requireTensors } from './tensor-check.js';
import { diffusersTensors, joinParts, takePart, unetTable, type TensorRow } from './tensor-map.js';
import { openStateDict, openWeights, type TensorSource } from './tensor-source.js';
import { writeStateDict } from './torch-archive-writer.js';

export interface ConvertOptions extends OutputOptions, WriteOptions {
  /** Floating types are converted into it. Left out: every tensor keeps its own. */
  dtype?: WeightDType;
}

export interface OriginalOptions extends ConvertOptions {
  /** Where the new pipeline gets its text encoder and tokenizer from: see copyTextEncoder. Left out: it has none. */
  textEncoder?: string;
}

export const ORIGINAL_CONFIG = 'config.yml';
export const ORIGINAL_WEIGHTS = 'pytorch_model.bin';

/** A `config.yml` from the disk. @throws IFError `NOT_FOUND`, `IO`, and as parseOriginalConfig */
export async function readOriginalConfig(file: string): Promise<UNetConfig> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause });
    throw ioError('reading', file, cause);
  });
  return parseOriginalConfig(text, file);
}

/**
 * Makes a diffusers pipeline folder (unet, schedulers, model_index.json) of a checkpoint folder of the original IF code.
 * @param input holds config.yml and pytorch_model.bin
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`; `WEIGHTS` with all tensors that do not fit the config; `IO`,
 *   `INVALID_ARGUMENT` for the output (see writeFolder), `CANCELLED`
 */
export async function originalToDiffusers(input: string, output: string, options: OriginalOptions = {}): Promise<void> {
  const configFile = path.join(input, ORIGINAL_CONFIG);
  const config = await readOriginalConfig(configFile);
  const weightsFile = path.join(input, ORIGINAL_WEIGHTS);
  const source = await openStateDict(weightsFile);
  try {
    const table = unetTable(parseUNetConfig(unetConfigJson(config), configFile)); // refuses widths that do not go together
    requireTensors(source.specs, table.map((row) => row.original), weightsFile);
    const kind = config.classEmbedType === null ? 'base' : 'super_resolution';
    const { textEncoder } = options;
    await writeFolder(output, textEncoder === undefined ? [input] : [input, textEncoder], options, async (dir) => {
      const unet = path.join(dir, 'unet');
      await writeJson(path.join(unet, 'config.json'), unetConfigJson(config));
      await writeModel(unet, weightsBaseName('unet'), splitTensors(source, table, options.dtype), options);
      await writeJson(path.join(dir, 'scheduler', 'scheduler_config.json'), denoisingScheduler(kind));
      if (kind === 'super_resolution') await writeJson(path.join(dir, 'image_noising_scheduler', 'scheduler_config.json'), imageNoisingScheduler());
      if (textEncoder !== undefined) await copyTextEncoder(textEncoder, dir, config.encoderHidDim, options);
      await writeJson(path.join(dir, 'model_index.json'), pipelineIndex(kind, textEncoder !== undefined));
    });
  } finally {
    await source.close();
  }
}

/**
 * Makes a checkpoint folder of the original IF code of a diffusers UNet.
 * @param input a pipeline folder, or its `unet` folder
 * @throws IFError as originalToDiffusers; `UNSUPPORTED` also for networks that the original code cannot express
 */
export async function diffusersToOriginal(input: string, output: string, options: Omit<ConvertOptions, 'dtype' | 'maxShardBytes'> = {}): Promise<void> {
  const folder = await unetFolder(input);
  const configFile = path.join(folder, 'config.json');
  const config = parseUNetConfig(await readJson(configFile), configFile);
  const yaml = originalConfigYaml(config, configFile);
  const { files } = await findWeights(folder, 'unet', { archives: true });
  const source = await openWeights(files, options.signal);
  try {
    const table = unetTable(config);
    requireTensors(source.specs, diffusersTensors(table), files.join(', '));
    await writeFolder(output, [input], options, async (dir) => {
      await writeStateDict(path.join(dir, ORIGINAL_WEIGHTS), table.map((row) => joinedTensor(source, row)), options);
      await writeFileAtomic(path.join(dir, ORIGINAL_CONFIG), yaml);
    });
  } finally {
    await source.close();
  }
}

/** The folder of the UNet: the one given, or `unet` in a pipeline folder. */
export async function unetFolder(input: string): Promise<string> {
  const names = await listFolder(input);
  return names.includes('unet') ? path.join(input, 'unet') : input;
}

/** The diffusers tensors in an original checkpoint. */
function splitTensors(source: TensorSource, table: readonly TensorRow[], dtype: WeightDType | undefined): WrittenTensor[] {
  const owners = new Map(table.flatMap((row) => row.parts.map(({ name }, part) => [name, { row, part }] as const)));
  return diffusersTensors(table).map(({ name, shape }) => {
    const { row, part } = owners.get(name)!;
    const stored = source.specs.get(row.original.name)!.dtype;
    return { name, shape, dtype: dtype ?? stored, read: async () => ({ bytes: takePart(row, await source.read(row.original.name), part), dtype: stored }) };
  });
}

/** An original tensor made of diffusers tensors. */
function joinedTensor(source: TensorSource, row: TensorRow): WrittenTensor {
  const dtypes = new Set(row.parts.map(({ name }) => source.specs.get(name)!.dtype));
  const [dtype] = dtypes;
  if (dtypes.size > 1) {
    throw new IFError('UNSUPPORTED', `${row.parts.map(({ name }) => name).join(', ')} become one tensor, but are ${[...dtypes].join(' and ')}: give them one type with \`if-convert dtype\` first`);
  }
  const { name, shape } = row.original;
  return {
    name, shape, dtype: dtype!,
    read: async () => {
      const parts: Buffer[] = [];
      for (const part of row.parts) parts.push(await source.read(part.name));
      return { bytes: joinParts(row, parts), dtype: dtype! };
    },
  };
}
