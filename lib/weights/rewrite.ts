// Models written anew: as safetensors, in another type, with other weights for some components. Small files are copied.
import { copyFile, mkdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import { changedJson, isJsonObject, parseJson, readJson, type JsonObject } from '../models/json.js';
import { parseModelIndex } from '../models/model-index.js';
import { parseT5Config } from '../models/t5-config.js';
import type { ConvertOptions } from './convert.js';
import { isWeightDType, type WeightDType } from './file-dtype.js';
import { findWeights, listFolder, weightsBaseName, type Component, type WeightsVariant } from './folder.js';
import { checkOutputFile, writeFolder } from './output-path.js';
import { writeJson } from './pipeline-files.js';
import { writeModel, writeSafetensors, type WrittenTensor } from './safetensors-writer.js';
import { T5_ALIASES } from './t5-tensors.js';
import { openSafetensors, openWeights, type TensorSource } from './tensor-source.js';

export interface RewriteOptions extends ConvertOptions {
  /** Take the weights of this variant. Default: the plain ones, else fp16, else bf16. */
  variant?: WeightsVariant;
}

const WEIGHTS_FILE = /\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|onnx_data|gguf)$|\.(safetensors|bin)\.index(\.\w+)?\.json$/;
const TORCH_NAMES: Record<WeightDType, string> = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' };

/**
 * Writes a model anew as safetensors, in another type if asked: a pipeline folder, a component folder, or a single file.
 * @param output a folder, or a `.safetensors` file when `input` is a file
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`, `WEIGHTS` when a value does not fit into float16, `IO`,
 *   `INVALID_ARGUMENT` for the output (see writeFolder), `CANCELLED`
 */
export async function rewriteModel(input: string, output: string, options: RewriteOptions = {}): Promise<void> {
  const info = await stat(input).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') throw new IFError('NOT_FOUND', `${input}: no such file or folder`, { cause });
    throw ioError('reading', input, cause);
  });
  if (!info.isDirectory()) return rewriteFile(input, output, options);
  const names = await listFolder(input);
  if (names.includes('config.yml')) throw new IFError('UNSUPPORTED', `${input}: this is a checkpoint of the original IF code: convert it with \`if-convert original-to-diffusers\``);
  if (names.includes('model_index.json')) return writeFolder(output, [input], options, (dir) => rewritePipeline(input, dir, options));
  if (!(await componentOf(input))) throw new IFError('NOT_FOUND', `${input}: expected a model (model_index.json, or config.json and weights), found ${names.join(', ') || 'an empty folder'}`);
  return writeFolder(output, [input], options, (dir) => rewriteComponent(input, dir, options));
}

/**
 * Copies a pipeline folder: its small files, and the components that model_index.json names.
 * @param options.components write these only, the others become null in model_index.json. Default: all that are there
 * @param options.replace component → its new tensors, instead of the weights in the folder
 */
export async function rewritePipeline(
  input: string, dir: string, options: RewriteOptions & { components?: readonly string[]; replace?: ReadonlyMap<string, WrittenTensor[]> },
): Promise<void> {
  const where = path.join(input, 'model_index.json');
  const index = await readJson(where);
  const present = await listFolder(input);
  const named = [...parseModelIndex(index, where).components.keys()];
  const left = named.filter((name) => !present.includes(name) || (isHeavy(name) && options.components && !options.components.includes(name)));
  await copySmallFiles(input, dir);
  for (const name of named) {
    if (left.includes(name) || (name === 'tokenizer' && left.includes('text_encoder'))) continue;
    await rewriteComponent(path.join(input, name), path.join(dir, name), options, options.replace?.get(name));
  }
  const gone = new Set(left.includes('text_encoder') ? [...left, 'tokenizer'] : left);
  await writeJson(path.join(dir, 'model_index.json'), Object.fromEntries(Object.entries(index as JsonObject).map(([key, value]) => [key, gone.has(key) ? [null, null] : value])));
}

const TOKENIZER_FILE = /^(spiece\.model|tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json)$/;

/**
 * Copies a T5 encoder and its tokenizer into a pipeline folder.
 * @param input a pipeline folder that has both, or one folder with config.json, weights and spiece.model, as DeepFloyd
 *   published t5-v1_1-xxl
 * @param width what the UNet expects of the encoder's output
 * @throws IFError `INVALID_ARGUMENT` when the encoder has another width, `NOT_FOUND`, and as rewriteModel
 */
export async function copyTextEncoder(input: string, dir: string, width: number, options: RewriteOptions): Promise<void> {
  const pipeline = (await listFolder(input)).includes('text_encoder');
  const encoder = pipeline ? path.join(input, 'text_encoder') : input;
  const tokenizer = pipeline ? path.join(input, 'tokenizer') : input;
  const configFile = path.join(encoder, 'config.json');
  const { dModel } = parseT5Config(await readJson(configFile), configFile);
  if (dModel !== width) throw new IFError('INVALID_ARGUMENT', `${encoder}: the text encoder gives vectors of width ${dModel}, the UNet was trained on ${width}`);
  await rewriteComponent(encoder, path.join(dir, 'text_encoder'), options);
  for (const name of await copyTokenizer(tokenizer, dir)) {
    if (!pipeline) await rm(path.join(dir, 'text_encoder', name), { force: true });
  }
}

/**
 * Copies a tokenizer into the folder `tokenizer` of a pipeline folder.
 * @returns the names of the files
 * @throws IFError `NOT_FOUND` when there is none, `IO`
 */
export async function copyTokenizer(input: string, dir: string): Promise<string[]> {
  const files = (await listFolder(input)).filter((name) => TOKENIZER_FILE.test(name));
  if (!files.some((name) => name === 'spiece.model' || name === 'tokenizer.json')) throw new IFError('NOT_FOUND', `${input}: expected spiece.model or tokenizer.json, found ${files.join(', ') || 'neither'}`);
  await mkdir(path.join(dir, 'tokenizer'), { recursive: true });
  for (const name of files) {
    await copyFile(path.join(input, name), path.join(dir, 'tokenizer', name)).catch((error: unknown) => {
      throw ioError('copying', path.join(input, name), error);
    });
  }
  return files;
}

/** Components that hold weights: what `components` chooses from. */
function isHeavy(name: string): boolean {
  return !name.endsWith('scheduler') && name !== 'tokenizer' && name !== 'feature_extractor';
}

/** Copies the small files of a component, and writes its weights anew, or `tensors` instead. */
async function rewriteComponent(input: string, dir: string, options: RewriteOptions, tensors?: WrittenTensor[]): Promise<void> {
  await mkdir(dir, { recursive: true });
  await copySmallFiles(input, dir, options.dtype);
  const component = await componentOf(input);
  if (!component) return; // a scheduler, a tokenizer
  if (tensors) return void await writeModel(dir, weightsBaseName(component), tensors, options);
  const { files } = await findWeights(input, component, { archives: true, variant: options.variant });
  const source = await openWeights(files, options.signal);
  try {
    await writeModel(dir, weightsBaseName(component), sourceTensors(source, options.dtype), options);
  } finally {
    await source.close();
  }
}

/** How the weights in a folder are named; undefined when there are none. */
async function componentOf(folder: string): Promise<Component | undefined> {
  const weights = (await listFolder(folder)).filter((name) => WEIGHTS_FILE.test(name));
  if (weights.length === 0) return undefined;
  return weights.some((name) => name.startsWith(weightsBaseName('unet'))) ? 'unet' : 'text_encoder';
}

/** Every tensor of a source, once where it has two names; floating ones in `dtype`, if given. */
export function sourceTensors(source: TensorSource, dtype: WeightDType | undefined): WrittenTensor[] {
  const repeated = (name: string): boolean => T5_ALIASES[name] !== undefined && source.specs.has(T5_ALIASES[name]);
  return [...source.specs.values()].filter(({ name }) => !repeated(name)).map((spec) => ({
    ...spec,
    dtype: dtype !== undefined && isWeightDType(spec.dtype) ? dtype : spec.dtype,
    read: async () => ({ bytes: await source.read(spec.name), dtype: spec.dtype }),
  }));
}

/** Regular files but hidden ones and weights. A config.json that names a torch type gets the new one. */
async function copySmallFiles(input: string, dir: string, dtype?: WeightDType): Promise<void> {
  for (const name of await listFolder(input)) {
    const from = path.join(input, name);
    if (name.startsWith('.') || WEIGHTS_FILE.test(name) || !(await stat(from)).isFile()) continue;
    const to = path.join(dir, name);
    try {
      if (name === 'config.json' && dtype) await copyConfig(from, to, dtype);
      else await copyFile(from, to);
    } catch (error) {
      throw ioError('copying', from, error);
    }
  }
}

async function copyConfig(from: string, to: string, dtype: WeightDType): Promise<void> {
  const text = await readFile(from, 'utf8');
  const config = parseJson(text, from);
  const typed = isJsonObject(config) ? ['torch_dtype', 'dtype'].filter((key) => typeof config[key] === 'string') : [];
  if (typed.length === 0) return copyFile(from, to);
  await writeFileAtomic(to, changedJson(text, from, Object.fromEntries(typed.map((key) => [key, TORCH_NAMES[dtype]]))));
}

async function rewriteFile(input: string, output: string, options: RewriteOptions): Promise<void> {
  if (!output.endsWith('.safetensors')) throw new IFError('INVALID_ARGUMENT', `the output of a single file must be FILE.safetensors, got "${output}"`);
  await checkOutputFile(output, [input], options);
  const opened = input.endsWith('.safetensors') ? await openSafetensors(input, options.signal) : undefined;
  const source = opened ?? await openWeights([input], options.signal);
  try {
    const tensors = sourceTensors(source, options.dtype);
    await writeSafetensors(output, tensors, Object.entries({ format: 'pt', ...opened?.metadata }), options);
  } finally {
    await source.close();
  }
}
