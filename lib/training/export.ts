import { constants, copyFile, link, mkdir, readdir, realpath, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { ioError, writeFileAtomic } from '../files.js';
import { readJson } from '../models/config.js';
import type { JsonObject } from '../models/json.js';
import { SAMPLE_DEFAULTS_FILE } from '../pipelines/sample-defaults.js';
import type { TrainableModel } from './model.js';
import type { Replicas } from './replicas.js';
import type { RunConfig } from './run-config.js';

/**
 * The scheduler configuration of the result: the folder's, with what was trained, so that a sampler obeys it. A variance
 * that was not trained is `fixed_small`, whatever the network's second half says.
 */
export function trainedScheduler(schedulerJson: JsonObject, { prediction, variance }: RunConfig['objective']): JsonObject {
  return { ...schedulerJson, prediction_type: prediction, variance_type: variance === 'learned' ? 'learned_range' : 'fixed_small' };
}

/**
 * Writes a whole pipeline folder in the layout of diffusers: the averaged weights when there are any, else the last.
 * model_index.json comes last, so that a folder with one is complete.
 * @throws IFError `IO`
 */
export async function exportPipeline(dir: string, replicas: Replicas, model: TrainableModel, config: RunConfig, step: number): Promise<void> {
  const ema = config.ema !== false;
  const metadata = {
    format: 'pt', // what transformers and diffusers look for
    'if.base_model': config.model.folder, 'if.stage': String(config.stage), 'if.steps': String(step),
    'if.prediction': config.objective.prediction, 'if.variance': config.objective.variance, 'if.weights': ema ? 'ema' : 'last',
  };
  try {
    for (const name of ['unet', 'scheduler', 'text_encoder', 'tokenizer', ...(model.folder.imageNoisingScheduler ? ['image_noising_scheduler'] : [])]) await mkdir(path.join(dir, name), { recursive: true });
    await rm(path.join(dir, 'model_index.json'), { force: true });
    await removeWeights(path.join(dir, 'unet'));
    await writeJson(path.join(dir, 'unet', 'config.json'), model.unetJson);
    await replicas.save(path.join(dir, 'unet', 'diffusion_pytorch_model.safetensors'), ema ? 'unet_ema' : 'unet', config.saveDtype, metadata);
    await writeJson(path.join(dir, 'scheduler', 'scheduler_config.json'), trainedScheduler(model.schedulerJson, config.objective));
    if (model.folder.imageNoisingScheduler) await copyFolder(model.folder.imageNoisingScheduler, path.join(dir, 'image_noising_scheduler'));
    if (model.trainTextEncoder) {
      await removeWeights(path.join(dir, 'text_encoder'));
      await writeJson(path.join(dir, 'text_encoder', 'config.json'), model.textJson);
      await replicas.save(path.join(dir, 'text_encoder', 'model.safetensors'), ema ? 't5_ema' : 't5', config.saveDtype, metadata);
    } else await copyFolder(model.textFolder.textEncoder, path.join(dir, 'text_encoder'));
    await copyFolder(model.textFolder.tokenizer, path.join(dir, 'tokenizer'));
    await copyIfThere(path.join(model.folder.dir, SAMPLE_DEFAULTS_FILE), path.join(dir, SAMPLE_DEFAULTS_FILE));
    await writeJson(path.join(dir, 'model_index.json'), await modelIndex(model));
  } catch (error) {
    throw ioError('writing', dir, error);
  }
}

/** The folder's, with text encoder and tokenizer even where they came from another folder. */
async function modelIndex(model: TrainableModel): Promise<JsonObject> {
  const json = await readJson(path.join(model.folder.dir, 'model_index.json')) as JsonObject;
  const text = await readJson(path.join(model.textFolder.dir, 'model_index.json')) as JsonObject;
  return { ...json, text_encoder: text['text_encoder'], tokenizer: text['tokenizer'] };
}

const writeJson = (file: string, json: JsonObject): Promise<void> => writeFileAtomic(file, `${JSON.stringify(json, null, 2)}\n`);

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
