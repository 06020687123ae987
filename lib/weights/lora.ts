// Adapters applied to models: which layers of which network get which product.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import { withFactors, type LoraFactors } from '../lora-factors.js';
import { changedJson, readJson, type JsonObject } from '../models/json.js';
import { parseT5Config } from '../models/t5-config.js';
import { parseUNetConfig } from '../models/unet-config.js';
import { firstNames } from '../suggest.js';
import type { ConvertOptions } from './convert.js';
import { findWeights, resolveStage, type Component } from './folder.js';
import { checkLora, openLora, type LoraModule, type LoraOrigin } from './lora-format.js';
import { writeFolder } from './output-path.js';
import { rewritePipeline, sourceTensors } from './rewrite.js';
import type { WrittenTensor } from './safetensors-writer.js';
import { diffusersTensors, unetTable, type NamedShape } from './tensor-map.js';
import { t5Tensors } from './t5-tensors.js';
import { openWeights } from './tensor-source.js';

/** An adapter and how much it counts. */
export interface LoraSpec {
  /** Its folder, or a safetensors file of diffusers' layout. */
  path: string;
  /** Default: 1. Negative: it is taken out of a model that it was merged into. */
  scale?: number;
}

/** An adapter whose header was read; no file is open. */
export interface AppliedLora {
  path: string;
  scale: number;
  file: string;
  modules: LoraModule[];
  origin: LoraOrigin;
}

const MAX_SCALE = 1000;
const SCHEDULER_CONFIG = 'scheduler_config.json';

/**
 * `DIR` or `DIR:SCALE`, e.g. `runs/dog:0.8`.
 * @throws IFError `INVALID_ARGUMENT`
 */
export function parseLoraSpec(text: string): Required<LoraSpec> {
  const [, dir, number] = /^(.+):([^:/\\]*)$/s.exec(text) ?? [];
  if (dir === undefined) return { path: text, scale: 1 };
  const scale = number!.trim() === '' ? NaN : Number(number);
  if (!(Math.abs(scale) <= MAX_SCALE)) throw new IFError('INVALID_ARGUMENT', `--lora ${text}: expected DIR or DIR:SCALE with a scale from -${MAX_SCALE} to ${MAX_SCALE}, got "${number}"`);
  return { path: dir, scale };
}

/**
 * Reads what the adapters are.
 * @throws IFError as openLora; `INVALID_ARGUMENT` for a scale out of range, or an adapter that is given twice
 */
export async function readLoras(specs: readonly LoraSpec[]): Promise<AppliedLora[]> {
  const loras: AppliedLora[] = [];
  for (const { path: dir, scale = 1 } of specs) {
    if (!(Math.abs(scale) <= MAX_SCALE)) throw new IFError('INVALID_ARGUMENT', `lora ${dir}: expected a scale from -${MAX_SCALE} to ${MAX_SCALE}, got ${scale}`);
    const adapter = await openLora(dir);
    await adapter.close();
    const { file, modules, origin } = adapter;
    if (loras.some((other) => path.resolve(other.file) === path.resolve(file))) throw new IFError('INVALID_ARGUMENT', `lora ${dir}: it is given twice; add the scales up`);
    loras.push({ path: dir, scale, file, modules, origin });
  }
  return loras;
}

/** Whether an adapter has factors for a network. */
export function adapts(lora: AppliedLora, component: Component): boolean {
  return lora.modules.some((module) => module.component === component);
}

/** What is added to the weights of a network. */
export function loraFactors(loras: readonly AppliedLora[], component: Component): LoraFactors[] {
  return loras.filter((lora) => adapts(lora, component)).map(({ file, modules, scale }) => ({
    file,
    modules: modules.filter((module) => module.component === component)
      .map(({ name, rank, alpha, down, up }) => ({ module: name, down: down.name, up: up.name, scale: (scale * alpha) / rank })),
  }));
}

/**
 * What a scheduler must be told of how the adapters of its network were trained: a variance that one of them did not train
 * is `fixed_small`. Adapters that count nothing have no say.
 * @throws IFError `INVALID_ARGUMENT` for adapters that were trained to predict different things
 */
export function loraScheduler(loras: readonly AppliedLora[]): JsonObject {
  const counted = loras.filter(({ scale }) => scale > 0);
  const origins = counted.map(({ origin }) => origin);
  const first = counted.find(({ origin }) => origin.prediction !== undefined);
  const prediction = first?.origin.prediction;
  const other = counted.find(({ origin }) => origin.prediction !== undefined && origin.prediction !== prediction);
  if (other) throw new IFError('INVALID_ARGUMENT', `lora ${other.path}: it was trained to predict ${other.origin.prediction}, ${first!.path} ${prediction}: they do not go together`);
  const variances = origins.map(({ variance }) => variance);
  const variance = variances.includes('fixed') ? 'fixed_small' : variances.includes('learned') ? 'learned_range' : undefined;
  return { ...(prediction === undefined ? {} : { prediction_type: prediction }), ...(variance === undefined ? {} : { variance_type: variance }) };
}

/** Of LoraOrigin: the names of the stages, from the first. */
export const STAGE_NAMES = ['I', 'II', 'III'] as const;

/** @throws IFError `INVALID_ARGUMENT` when the adapter was trained on a stage of another kind */
export function checkLoraStage({ path: dir, origin }: AppliedLora, upscales: boolean, folder: string): void {
  if (origin.stage === undefined || (origin.stage !== 'I') === upscales) return;
  throw new IFError('INVALID_ARGUMENT', `lora ${dir}: it was trained on stage ${origin.stage}${origin.baseModel ? ` (${origin.baseModel})` : ''}, ${folder} is ${upscales ? 'an upscaling stage' : 'a stage I'}`);
}

/**
 * Writes a pipeline folder with the products of adapters added to its weights, each sum rounded once. The scheduler becomes
 * the one that the adapters were trained for; merged with the negative scale an adapter is taken out again, up to rounding.
 * @throws IFError `INVALID_ARGUMENT` without adapters, or for one of another stage; `WEIGHTS` for modules that the model or
 *   its files do not have, or that have another shape; `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`, `IO`, `CANCELLED`, and for the output as writeFolder
 */
export async function mergeLora(input: string, output: string, specs: readonly LoraSpec[], options: ConvertOptions = {}): Promise<void> {
  if (specs.length === 0) throw new IFError('INVALID_ARGUMENT', 'merge-lora: expected one adapter or several (--lora DIR[:SCALE])');
  const loras = await readLoras(specs);
  const stage = await resolveStage(input);
  for (const lora of loras) checkLoraStage(lora, stage.kind === 'super_resolution', stage.dir);
  const schedulerFile = path.join(stage.scheduler, SCHEDULER_CONFIG);
  const scheduler = changedJson(await readFile(schedulerFile, 'utf8').catch((error: unknown) => {
    throw ioError('reading', schedulerFile, error);
  }), schedulerFile, loraScheduler(loras));
  const replace = new Map<string, WrittenTensor[]>();
  const close: (() => Promise<void>)[] = [];
  const merge = async (): Promise<void> => {
    await writeFolder(output, [input, ...loras.map((lora) => lora.path)], options, async (dir) => {
      await rewritePipeline(stage.dir, dir, { ...options, replace });
      await writeFileAtomic(path.join(dir, 'scheduler', SCHEDULER_CONFIG), scheduler);
    });
  };
  /** The merged tensors of a component, for as long as the rest runs. */
  const withComponent = (component: Component, rest: () => Promise<void>) => async (): Promise<void> => {
    if (!loras.some((lora) => adapts(lora, component))) return rest();
    const folder = component === 'unet' ? stage.unet : stage.textEncoder;
    if (folder === undefined) throw new IFError('NOT_FOUND', `merge-lora: an adapter has factors of the text encoder, and ${stage.dir} has none`);
    const shapes = await componentShapes(component, folder);
    for (const lora of loras) checkLora(lora, component, shapes, lora.path);
    const source = await openWeights((await findWeights(folder, component, { archives: true })).files, options.signal);
    close.push(() => source.close());
    await withFactors(loraFactors(loras, component), async (products) => {
      const tensors = sourceTensors(source, options.dtype).map((tensor) => ({ ...tensor, lora: products.filter(({ module }) => tensor.name === `${module}.weight`) }));
      const names = new Set(tensors.map(({ name }) => name));
      const lacking = products.map(({ module }) => `${module}.weight`).filter((name) => !names.has(name));
      if (lacking.length > 0) throw new IFError('WEIGHTS', `merge-lora: the weights in ${folder} have no ${firstNames(lacking)}, which an adapter changes`);
      replace.set(component, tensors);
      await rest();
    });
  };
  try {
    await withComponent('unet', withComponent('text_encoder', merge))();
  } finally {
    for (const end of close) await end();
  }
}

async function componentShapes(component: Component, folder: string): Promise<NamedShape[]> {
  const file = path.join(folder, 'config.json');
  const json = await readJson(file);
  return component === 'unet' ? diffusersTensors(unetTable(parseUNetConfig(json, file))) : t5Tensors(parseT5Config(json, file));
}
