import { constants, copyFile, link, mkdir, readdir, readFile, realpath, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { ioError, writeFileAtomic } from '../files.js';
import { readJson } from '../models/config.js';
import { changedJson, type JsonObject } from '../models/json.js';
import { SAMPLE_DEFAULTS_FILE } from '../pipelines/sample-defaults.js';
import type { Component } from '../weights/folder.js';
import { writeAdapter } from './lora.js';
import type { TrainableModel } from './model.js';
import type { Replicas } from './replicas.js';
import type { RunConfig } from './run-config.js';

/** What a sampler has to know of how a network was trained. A variance that was not is `fixed_small`, whatever its output says. */
function trainedFields({ prediction, variance }: RunConfig['objective']): JsonObject {
  return { prediction_type: prediction, variance_type: variance === 'learned' ? 'learned_range' : 'fixed_small' };
}

/** The scheduler configuration of the result: the folder's, with what was trained. */
export function trainedScheduler(schedulerJson: JsonObject, objective: RunConfig['objective']): JsonObject {
  return { ...schedulerJson, ...trainedFields(objective) };
}

/** The small JSON files of the result: path in the folder → text. Checkpoints keep them, so that one is enough to publish. */
export type PipelineTexts = Record<string, string>;

/** @throws IFError `IO`, `FILE_FORMAT` */
export async function pipelineTexts(model: TrainableModel, config: RunConfig): Promise<PipelineTexts> {
  const { folder, textFolder } = model;
  const read = async (file: string, changes: JsonObject = {}): Promise<string> => {
    const text = await readFile(file, 'utf8').catch((error: unknown) => {
      throw ioError('reading', file, error);
    });
    return Object.keys(changes).length === 0 ? text : changedJson(text, file, changes);
  };
  const text = await readJson(path.join(textFolder.dir, 'model_index.json')) as JsonObject;
  const defaults = path.join(folder.dir, SAMPLE_DEFAULTS_FILE);
  const noising = folder.imageNoisingScheduler;
  return {
    'unet/config.json': await read(path.join(folder.unet, 'config.json'), config.model.unet),
    'scheduler/scheduler_config.json': await read(path.join(folder.scheduler, 'scheduler_config.json'), trainedFields(config.objective)),
    ...(noising === undefined ? {} : { 'image_noising_scheduler/scheduler_config.json': await read(path.join(noising, 'scheduler_config.json')) }),
    'text_encoder/config.json': await read(path.join(textFolder.textEncoder, 'config.json'), config.model.textEncoder),
    ...(await stat(defaults).then(() => true, () => false) ? { [SAMPLE_DEFAULTS_FILE]: await read(defaults) } : {}),
    // with text encoder and tokenizer even where they came from another folder
    'model_index.json': await read(path.join(folder.dir, 'model_index.json'), { text_encoder: text['text_encoder'], tokenizer: text['tokenizer'] }),
  };
}

/** What the weights' files say about themselves. */
export function weightsMetadata(config: RunConfig, step: number): Record<string, string> {
  return {
    format: 'pt', // what transformers and diffusers look for
    'if.base_model': config.model.folder, 'if.stage': String(config.stage), 'if.steps': String(step),
    'if.prediction': config.objective.prediction, 'if.variance': config.objective.variance, 'if.weights': config.ema ? 'ema' : 'last',
  };
}

/**
 * Writes a whole pipeline folder in the layout of diffusers: the averaged weights when there are any, else the last.
 * model_index.json comes last, so that a folder with one is complete.
 * @throws IFError `IO`
 */
export async function exportPipeline(dir: string, replicas: Replicas, model: TrainableModel, config: RunConfig, texts: PipelineTexts, step: number): Promise<void> {
  const ema = config.ema !== false;
  const metadata = weightsMetadata(config, step);
  try {
    for (const name of ['unet', 'scheduler', 'text_encoder', 'tokenizer', ...(model.folder.imageNoisingScheduler ? ['image_noising_scheduler'] : [])]) await mkdir(path.join(dir, name), { recursive: true });
    await rm(path.join(dir, 'model_index.json'), { force: true });
    await removeWeights(path.join(dir, 'unet'));
    await replicas.save(path.join(dir, 'unet', 'diffusion_pytorch_model.safetensors'), ema ? 'unet_ema' : 'unet', config.saveDtype, metadata);
    if (model.trainTextEncoder) {
      await removeWeights(path.join(dir, 'text_encoder'));
      await replicas.save(path.join(dir, 'text_encoder', 'model.safetensors'), ema ? 't5_ema' : 't5', config.saveDtype, metadata);
    } else await copyFolder(model.textFolder.textEncoder, path.join(dir, 'text_encoder'));
    await copyFolder(model.textFolder.tokenizer, path.join(dir, 'tokenizer'));
    for (const [name, text] of Object.entries(texts)) await writeFileAtomic(path.join(dir, name), text);
  } catch (error) {
    throw ioError('writing', dir, error);
  }
}

/**
 * Writes the averaged factors when there are any, else the last, as an adapter; see writeAdapter.
 * @throws IFError `IO`
 */
export async function exportLora(dir: string, replicas: Replicas, model: TrainableModel, config: RunConfig): Promise<void> {
  const temporary = path.join(dir, '.unfinished-lora');
  try {
    await mkdir(temporary, { recursive: true });
    const files: Partial<Record<Component, string>> = {};
    for (const component of model.trainTextEncoder ? ['unet', 'text_encoder'] as const : ['unet'] as const) {
      const part = component === 'unet' ? 'unet' : 't5';
      files[component] = path.join(temporary, `${component}.safetensors`);
      await replicas.save(files[component], config.ema ? `${part}_ema` : part, 'f32');
    }
    await writeAdapter(dir, files, config, { unet: model.config, text: model.trainTextEncoder ? model.text.config : undefined }, config.saveDtype);
  } catch (error) {
    throw ioError('writing', dir, error);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Weights of an earlier run in the folder, which may have been sharded or of another variant. */
async function removeWeights(dir: string): Promise<void> {
  for (const name of await readdir(dir)) if (/\.(safetensors|bin)(\.|$)/.test(name)) await rm(path.join(dir, name));
}

// Weights are linked where the file system can: T5-XXL is 10 GB. The rest is small, and may be edited.
const LINK_ABOVE_BYTES = 64e6;

/** The files of a folder, without its folders. */
async function copyFolder(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from)) await copyIfThere(path.join(from, entry), path.join(to, entry));
}

async function copyIfThere(from: string, to: string): Promise<void> {
  const found = await stat(from).catch(() => undefined);
  if (!found?.isFile()) return;
  const source = await realpath(from); // caches of downloads hold links
  if (source === await realpath(to).catch(() => undefined)) return;
  await rm(to, { force: true });
  if (found.size > LINK_ABOVE_BYTES && await link(source, to).then(() => true, () => false)) return;
  await copyFile(source, to, constants.COPYFILE_FICLONE);
}
