// A checkpoint of a run becomes a diffusers folder.
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { changedJson, parseJson } from '../models/json.js';
import { parseT5Config } from '../models/t5-config.js';
import { parseUNetConfig } from '../models/unet-config.js';
import { SAMPLE_DEFAULTS_FILE } from '../pipelines/sample-defaults.js';
import { firstNames } from '../suggest.js';
import type { ConvertOptions } from '../weights/convert.js';
import { listFolder, resolveStage, weightsBaseName, type Component } from '../weights/folder.js';
import { writeFolder } from '../weights/output-path.js';
import { copyTextEncoder, copyTokenizer, sourceTensors } from '../weights/rewrite.js';
import { writeModel } from '../weights/safetensors-writer.js';
import { requireTensors } from '../weights/tensor-check.js';
import { diffusersTensors, unetTable } from '../weights/tensor-map.js';
import { T5_ALIASES, t5Tensors } from '../weights/t5-tensors.js';
import { openSafetensors } from '../weights/tensor-source.js';
import { Checkpoints, openCheckpoint, partFile, type Checkpoint } from './checkpoint.js';
import { weightsMetadata } from './export.js';
import { writeAdapter } from './lora.js';
import { modelFolder } from './model.js';
import type { RunConfig } from './run-config.js';

export interface PublishOptions extends ConvertOptions {
  /** Components that the new folder gets. Default: UNet and text encoder. */
  saveKeys?: readonly Component[];
}

const SETTINGS = ['scheduler/scheduler_config.json', 'image_noising_scheduler/scheduler_config.json', SAMPLE_DEFAULTS_FILE];

/**
 * Makes a diffusers pipeline folder of a checkpoint, or an adapter of one with LoRA: the averaged weights when the run has
 * them, else the last, in `options.dtype` or the run's saveDtype. The checkpoint is enough for what was trained; a text encoder
 * that was not, and any tokenizer, come from the folder that the run started from.
 * @param checkpoint folder of a checkpoint, or of a run (then the newest whole checkpoint of it)
 * @throws IFError `NOT_FOUND` when there is no checkpoint, or no text encoder; `FILE_FORMAT`, `WEIGHTS` when it is damaged;
 *   `IO`, `INVALID_ARGUMENT` for the output (see writeFolder), `CANCELLED`
 */
export async function publish(checkpoint: string, output: string, options: PublishOptions = {}): Promise<void> {
  const { dir, state } = await findCheckpoint(checkpoint);
  const { config, pipeline, step } = state;
  const text = (file: string): string => {
    const found = pipeline[file];
    if (found === undefined) throw new IFError('FILE_FORMAT', `${dir}: state.json has no ${file}: it was written by an earlier version; continue the run once with this one (if-train --resume)`);
    return found;
  };
  if (config.lora) return publishLora(dir, config, text, checkpoint, output, options);
  const saveKeys = options.saveKeys ?? ['unet', 'text_encoder'];
  const trained: Component[] = config.model.trainTextEncoder ? ['unet', 'text_encoder'] : ['unet'];
  const base = saveKeys.includes('text_encoder') ? await textFolder(config.model.textFolder ?? config.model.folder, dir) : undefined;
  await writeFolder(output, base === undefined ? [checkpoint] : [checkpoint, base], options, async (out) => {
    for (const component of saveKeys.filter((key) => trained.includes(key))) {
      const part = component === 'unet' ? 'unet' : 't5';
      await publishPart(partFile(dir, config.ema ? `${part}_ema` : part), component, text(`${component}/config.json`), path.join(out, component), {
        ...options, dtype: options.dtype ?? config.saveDtype, metadata: weightsMetadata(config, step),
      });
    }
    if (base !== undefined && !trained.includes('text_encoder')) await copyTextEncoder(base, out, parseUNetConfig(parseJson(text('unet/config.json'), dir), dir).encoderHidDim, options);
    else if (base !== undefined) await copyTokenizer(path.join(base, 'tokenizer'), out);
    for (const name of SETTINGS) { // by name: a path in state.json could lead anywhere
      if (pipeline[name] === undefined) continue;
      await mkdir(path.dirname(path.join(out, name)), { recursive: true });
      await writeFileAtomic(path.join(out, name), pipeline[name]);
    }
    const none = [null, null];
    const left = { ...(saveKeys.includes('unet') ? {} : { unet: none }), ...(saveKeys.includes('text_encoder') ? {} : { text_encoder: none, tokenizer: none }) };
    await writeFileAtomic(path.join(out, 'model_index.json'), changedJson(text('model_index.json'), dir, left));
  });
}

/** The factors of a checkpoint as an adapter. */
async function publishLora(dir: string, config: RunConfig, text: (file: string) => string, checkpoint: string, output: string, options: PublishOptions): Promise<void> {
  const all: Component[] = config.lora!.textEncoder ? ['unet', 'text_encoder'] : ['unet'];
  const saved = all.filter((component) => !options.saveKeys || options.saveKeys.includes(component));
  if (saved.length === 0) throw new IFError('INVALID_ARGUMENT', `--save-keys: the adapter in ${dir} is of the ${all.join(' and ')}`);
  const networks = {
    unet: parseUNetConfig(parseJson(text('unet/config.json'), dir), dir),
    text: saved.includes('text_encoder') ? parseT5Config(parseJson(text('text_encoder/config.json'), dir), dir) : undefined,
  };
  const file = (component: Component): string => {
    const part = component === 'unet' ? 'unet' : 't5';
    return partFile(dir, config.ema ? `${part}_ema` : part);
  };
  await writeFolder(output, [checkpoint], options, (out) => writeAdapter(out, Object.fromEntries(saved.map((component) => [component, file(component)])), config, networks, options.dtype ?? config.saveDtype));
}

async function findCheckpoint(folder: string): Promise<Checkpoint> {
  const names = await listFolder(folder);
  if (names.includes('state.json')) return openCheckpoint(folder);
  const root = names.includes('checkpoints') ? path.join(folder, 'checkpoints') : folder;
  const skipped: string[] = [];
  const newest = await new Checkpoints(root, 1).latest((message) => skipped.push(message));
  if (newest) return newest;
  throw new IFError('NOT_FOUND', `${folder}: expected a checkpoint (state.json), or the folder of a run with checkpoints in it, found ${[...skipped, firstNames(names)].filter(Boolean).join('; ') || 'an empty folder'}`);
}

/** The pipeline folder with text encoder and tokenizer that the run used. */
async function textFolder(name: string, checkpoint: string): Promise<string> {
  const remedy = `${checkpoint}: its text encoder or tokenizer comes from "${name}", where the run started; publish where that folder can be found, or without them (--save-keys unet)`;
  const stage = await resolveStage(modelFolder(name)).catch((cause: unknown) => {
    if (cause instanceof IFError && cause.code === 'NOT_FOUND') throw new IFError('NOT_FOUND', `${remedy}: ${cause.message}`, { cause });
    throw cause;
  });
  if (!stage.textEncoder || !stage.tokenizer) throw new IFError('NOT_FOUND', remedy);
  return stage.dir;
}

/** The weights of a component, checked against its configuration, and the configuration. */
async function publishPart(file: string, component: Component, config: string, dir: string, options: PublishOptions & { metadata: Record<string, string> }): Promise<void> {
  const where = `${dir}/config.json`;
  const json = parseJson(config, where);
  const source = await openSafetensors(file, options.signal);
  try {
    requireTensors(source.specs, component === 'unet' ? diffusersTensors(unetTable(parseUNetConfig(json, where))) : t5Tensors(parseT5Config(json, where)), file, T5_ALIASES);
    await mkdir(dir, { recursive: true });
    await writeFileAtomic(path.join(dir, 'config.json'), config);
    await writeModel(dir, weightsBaseName(component), sourceTensors(source, options.dtype), options);
  } finally {
    await source.close();
  }
}
