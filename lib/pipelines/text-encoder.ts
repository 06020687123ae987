import path from 'node:path';
import { IFError } from '../errors.js';
import { parseT5Config, readJson } from '../models/config.js';
import { isJsonObject, type JsonObject } from '../models/json.js';
import type { TextEncoderFiles } from '../text/prompt-embeddings.js';
import { T5Tokenizer } from '../text/t5-tokenizer.js';
import { findWeights, type StageFolder, type WeightsVariant } from '../weights/folder.js';

export interface TextEncoderOptions {
  /** Weights of this variant. */
  variant?: WeightsVariant | undefined;
  /** No weights are looked for: an encoder that is trained from scratch, with these fields instead of its file's. */
  fromScratch?: JsonObject;
}

/**
 * Reads configuration and tokenizer of a pipeline folder's text encoder and finds its weights.
 * @param name how messages call the folder, e.g. `stage1`
 * @throws IFError `NOT_FOUND` when the folder has no encoder, tokenizer or weights; `FILE_FORMAT`, `UNSUPPORTED`
 */
export async function openTextEncoder(folder: StageFolder, name: string, options: TextEncoderOptions = {}): Promise<TextEncoderFiles> {
  const { textEncoder, tokenizer, dir } = folder;
  if (!textEncoder || !tokenizer) throw new IFError('NOT_FOUND', `${name}: ${dir} has no ${textEncoder ? 'tokenizer' : 'text_encoder'} folder; stage I brings the text encoder`);
  const configFile = path.join(textEncoder, 'config.json');
  const json = await readJson(configFile);
  const config = parseT5Config(isJsonObject(json) ? { ...json, ...options.fromScratch } : json, configFile);
  const files = options.fromScratch ? [] : (await findWeights(textEncoder, 'text_encoder', { variant: options.variant })).files;
  return { config, files, tokenizer: await T5Tokenizer.load(tokenizer) };
}
