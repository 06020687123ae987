import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { describeJson, isJsonObject, readJson } from '../models/json.js';
import { parseModelIndex, STAGE_CLASSES, type ModelIndex, type StageKind } from '../models/model-index.js';
import { firstNames } from '../suggest.js';

/** A part of a pipeline that has weights. */
export type Component = 'unet' | 'text_encoder';
/** Files of weights beside the plain ones. */
export type WeightsVariant = 'fp16' | 'bf16';

/** How tensor files are stored: safetensors, or torch archives. */
type WeightsFormat = 'safetensors' | 'bin';

/** The tensor files of one component. */
export interface WeightFiles {
  /** Absolute paths, sorted. */
  files: string[];
  /** For sharded weights: tensor name → the absolute path of its file. */
  index?: Map<string, string>;
  /** The variant that was found. */
  variant: WeightsVariant | undefined;
}

export interface FindOptions {
  /** Take only this variant; left out: the first present of none, fp16, bf16. */
  variant?: WeightsVariant | undefined;
  /** Accept torch archives (.bin) where there is no safetensors file. Default: false; the engine reads safetensors only. */
  archives?: boolean;
}

/** A pipeline folder that holds one stage of the cascade. All paths are absolute. */
export interface StageFolder {
  dir: string;
  kind: StageKind;
  modelIndex: ModelIndex;
  unet: string;
  scheduler: string;
  /** Absent when model_index.json has none, or the folder was not downloaded. */
  textEncoder?: string;
  /** As textEncoder. */
  tokenizer?: string;
  /** Super-resolution stages only: the scheduler that noises the low-resolution picture. */
  imageNoisingScheduler?: string;
}

// diffusers utils/constants.py, transformers utils/__init__.py
const BASE_NAMES: Record<WeightsFormat, Record<Component, string>> = {
  safetensors: { unet: 'diffusion_pytorch_model', text_encoder: 'model' },
  bin: { unet: 'diffusion_pytorch_model', text_encoder: 'pytorch_model' },
};
const VARIANTS: (WeightsVariant | undefined)[] = [undefined, 'fp16', 'bf16']; // the order of preference

/** The name, without its extension, of a component's weights in safetensors files. */
export function weightsBaseName(component: Component): string {
  return BASE_NAMES.safetensors[component];
}

/**
 * Finds the weights of a component folder by the names that diffusers and transformers give them: `NAME.safetensors`,
 * `NAME.VARIANT.safetensors`, or the shards of `NAME.safetensors.index.json` (`.index.VARIANT.json`); with
 * `options.archives` also the same with `.bin`.
 * @param dir the component's folder, e.g. `…/unet`
 * @param component decides NAME: `diffusion_pytorch_model` for the UNet, `model` (.bin: `pytorch_model`) for the text encoder
 * @throws IFError `NOT_FOUND` when the folder, the weights, the variant or a shard is missing (the message lists what is
 *   there), `UNSUPPORTED` when only torch archives are there and they are not accepted, `FILE_FORMAT` for a damaged index,
 *   or one that points out of the folder
 */
export async function findWeights(dir: string, component: Component, options: FindOptions = {}): Promise<WeightFiles> {
  const folder = path.resolve(dir);
  const names = new Set(await listFolder(folder));
  for (const format of ['safetensors', ...(options.archives ? ['bin'] : [])] as WeightsFormat[]) {
    const base = BASE_NAMES[format][component];
    for (const variant of options.variant ? [options.variant] : VARIANTS) {
      const dotted = variant ? `.${variant}` : '';
      const single = `${base}${dotted}.${format}`;
      const index = `${base}.${format}.index${dotted}.json`;
      if (names.has(single)) return { files: [path.join(folder, single)], variant };
      if (names.has(index)) return { ...await readIndex(folder, index, names, format), variant };
    }
  }
  throw missingWeights(folder, component, [...names], options.variant);
}

function missingWeights(folder: string, component: Component, names: string[], variant: WeightsVariant | undefined): IFError {
  const base = weightsBaseName(component);
  const wanted = `${base}${variant ? `.${variant}` : ''}.safetensors (or the index of its shards)`;
  const others = names.filter((name) => name.startsWith(`${base}.`) && name.includes('.safetensors'));
  if (others.length) return new IFError('NOT_FOUND', `${folder}: expected ${wanted}, found only ${listed(others)}: choose another variant`);
  const archives = names.filter((name) => name.endsWith('.bin'));
  if (archives.length) {
    const remedy = names.includes('config.yml')
      ? `convert the original checkpoint with \`if-convert original-to-diffusers ${folder} NEW_FOLDER\``
      : `write the model anew as safetensors with \`if-convert safetensors FOLDER NEW_FOLDER\``;
    return new IFError('UNSUPPORTED', `${folder}: expected ${wanted}, found only ${listed(archives)}: ${remedy}`);
  }
  return new IFError('NOT_FOUND', `${folder}: expected ${wanted}, found ${listed(names)}`);
}

/** `weight_map` of an index file: tensor name → file name, all in the same folder. */
async function readIndex(folder: string, indexName: string, names: ReadonlySet<string>, format: WeightsFormat): Promise<{ files: string[]; index: Map<string, string> }> {
  const where = path.join(folder, indexName);
  const json = await readJson(where);
  const map = isJsonObject(json) ? json.weight_map : undefined;
  if (!isJsonObject(map) || Object.keys(map).length === 0) {
    throw new IFError('FILE_FORMAT', `${where}: weight_map: expected an object of tensor names and file names, got ${describeJson(map)}`);
  }
  const index = new Map<string, string>();
  for (const [tensor, name] of Object.entries(map)) {
    // a plain name: nothing that leaves the folder
    if (typeof name !== 'string' || !/^[^/\\:\0]+$/.test(name) || !name.endsWith(`.${format}`)) {
      throw new IFError('FILE_FORMAT', `${where}: weight_map[${describeJson(tensor)}]: expected the name of a .${format} file in this folder, got ${describeJson(name)}`);
    }
    index.set(tensor, path.join(folder, name));
  }
  const files = [...new Set(index.values())].sort();
  const missing = files.map((file) => path.basename(file)).filter((name) => !names.has(name));
  if (missing.length) throw new IFError('NOT_FOUND', `${where}: missing ${listed(missing)}: the download is not complete`);
  return { files, index };
}

/**
 * Finds the components of a diffusers pipeline folder (one with a model_index.json) of an IF stage.
 * @throws IFError `NOT_FOUND` when it is no pipeline folder or a component is missing, `FILE_FORMAT` when model_index.json is
 *   damaged or names no UNet or scheduler, `UNSUPPORTED` when it is another pipeline; the messages say what was expected and
 *   what is there
 */
export async function resolveStage(dir: string): Promise<StageFolder> {
  const folder = path.resolve(dir);
  const names = await listFolder(folder);
  if (!names.includes('model_index.json')) {
    const hint = names.includes('config.json') ? ': this is a component, give the folder above it'
      : names.includes('config.yml') ? `: this is a checkpoint of the original IF code; convert it with \`if-convert original-to-diffusers ${folder} NEW_FOLDER\`` : '';
    throw new IFError('NOT_FOUND', `${folder}: expected a pipeline folder with model_index.json (${[...STAGE_CLASSES.keys()].join(', ')}), found ${listed(names)}${hint}`);
  }
  const where = path.join(folder, 'model_index.json');
  const { kind, className, components } = parseModelIndex(await readJson(where), where);
  const present = new Set(names);

  const required = (name: string): string => {
    if (!components.has(name)) throw new IFError('FILE_FORMAT', `${where}: ${className} needs ${name}, and the file has none`);
    if (!present.has(name)) throw new IFError('NOT_FOUND', `${folder}: ${className} needs the folder ${name}, found ${listed(names)}`);
    return path.join(folder, name);
  };
  const optional = (name: string): string | undefined => (components.has(name) && present.has(name) ? path.join(folder, name) : undefined);

  const textEncoder = optional('text_encoder');
  const tokenizer = optional('tokenizer');
  return {
    dir: folder,
    kind,
    modelIndex: { className, components },
    unet: required('unet'),
    scheduler: required('scheduler'),
    ...(textEncoder && { textEncoder }),
    ...(tokenizer && { tokenizer }),
    ...(kind === 'super_resolution' && { imageNoisingScheduler: required('image_noising_scheduler') }),
  };
}

/** The names in a folder, sorted. @throws IFError `NOT_FOUND` when there is none or it is a file */
export async function listFolder(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new IFError('NOT_FOUND', `${folder}: no such folder`, { cause });
    if (code === 'ENOTDIR') throw new IFError('NOT_FOUND', `${folder}: expected a folder, this is a file`, { cause });
    throw ioError('reading', folder, cause);
  }
}

function listed(names: string[]): string {
  return names.length === 0 ? 'an empty folder' : firstNames(names);
}
