import path from 'node:path';
import { IFError } from '../errors.js';
import { readJson } from '../models/config.js';
import type { JsonObject } from '../models/json.js';
import { EMBEDDED_FOLDER, EMBEDDED_MODEL } from '../pipelines/embedded.js';
import { readStage, type StageFiles } from '../pipelines/stage.js';
import { openTextEncoder } from '../pipelines/text-encoder.js';
import type { TextEncoderFiles } from '../text/prompt-embeddings.js';
import { findWeights, resolveStage, type StageFolder } from '../weights/folder.js';
import type { ResolvedConfig } from './resolve-config.js';

/** The model that a run starts from: configurations and files, nothing loaded. */
export interface TrainableModel extends StageFiles {
  /** scheduler/scheduler_config.json of the folder. */
  schedulerJson: JsonObject;
  /** None: parameters are random. */
  unetFiles: string[];
  /** Its `files` are none when it is trained from scratch. */
  text: TextEncoderFiles;
  /** Where text encoder and tokenizer lie. */
  textFolder: StageFolder & { textEncoder: string; tokenizer: string };
  /** Whole, or by factors. */
  trainTextEncoder: boolean;
}

/**
 * Finds and checks the files of the model to train.
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`; `INVALID_ARGUMENT` when text encoder and network do not fit
 */
export async function openModel({ model: config, lora }: Pick<ResolvedConfig, 'model' | 'lora'>): Promise<TrainableModel> {
  const { fromScratch, variant } = config;
  const trainTextEncoder = config.trainTextEncoder || (lora?.textEncoder ?? false);
  const files = await readStage(modelFolder(config.folder), config.unet);
  const textStage = config.textFolder === undefined ? files.folder : await resolveStage(modelFolder(config.textFolder));
  const { textEncoder, tokenizer } = textStage;
  if (!textEncoder || !tokenizer) {
    throw new IFError('NOT_FOUND', `model: ${textStage.dir} has no ${textEncoder ? 'tokenizer' : 'text_encoder'} folder: set model.textFolder to a pipeline folder that has both, e.g. that of stage I`);
  }
  const text = await openTextEncoder(textStage, 'model.textFolder', fromScratch && trainTextEncoder ? { fromScratch: config.textEncoder ?? {} } : { variant });
  if (files.config.encoderHidDim !== text.config.dModel) {
    throw new IFError('INVALID_ARGUMENT', `model: ${files.folder.unet} reads text of width ${files.config.encoderHidDim}, the encoder in ${textEncoder} gives ${text.config.dModel}: set model.textFolder to the one that belongs to it`);
  }
  return {
    ...files,
    schedulerJson: await readJson(path.join(files.folder.scheduler, 'scheduler_config.json')) as JsonObject,
    unetFiles: fromScratch ? [] : (await findWeights(files.folder.unet, 'unet', { variant })).files,
    text,
    textFolder: { ...textStage, textEncoder, tokenizer },
    trainTextEncoder,
  };
}

/** The folder that a configuration means: `if-emoji` is the model that comes with the package. */
export function modelFolder(name: string): string {
  return name === EMBEDDED_MODEL ? EMBEDDED_FOLDER : name;
}
