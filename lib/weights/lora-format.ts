// LoRA adapters in the layouts of PEFT (adapter_config.json, adapter_model.safetensors) and of diffusers
// (pytorch_lora_weights.safetensors). A module W of a network becomes W + alpha/rank · up · down (Hu et al. 2021, section 4.1).
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { describeJson, isJsonObject, parseJson, readJson, type JsonObject } from '../models/json.js';
import { firstNames, nearestName } from '../suggest.js';
import { isWeightDType, shapeText, type TensorSpec, type WeightDType } from './file-dtype.js';
import { listFolder, type Component } from './folder.js';
import { writeJson } from './pipeline-files.js';
import { writeSafetensors, type WrittenTensor } from './safetensors-writer.js';
import type { NamedShape } from './tensor-map.js';
import { openSafetensors } from './tensor-source.js';

export interface LoraModule {
  component: Component;
  /** Of the linear layer in its network, e.g. `down_blocks.1.attentions.0.to_q`. */
  name: string;
  rank: number;
  alpha: number;
  /** (rank, in) and (out, rank); under the names that they have in the file. */
  down: TensorSpec;
  up: TensorSpec;
}

/** What an adapter was trained on; kept in the metadata of its file. */
export interface LoraOrigin {
  /** The pipeline folder or repository. */
  baseModel?: string;
  /** `I`, `II` or `III`. */
  stage?: string;
  /** `epsilon` or `v_prediction`. */
  prediction?: string;
  /** `learned` or `fixed`: whether the predicted variance was trained; if not, samplers use a fixed one. */
  variance?: string;
}

/** An adapter: described at once, read tensor by tensor. Close it when done. */
export interface LoraAdapter {
  /** That the factors are in. */
  file: string;
  modules: LoraModule[];
  origin: LoraOrigin;
  /** Dense elements of a module's `down` or `up`. */
  read(tensor: TensorSpec): Promise<Buffer>;
  close(): Promise<void>;
}

export const PEFT_CONFIG = 'adapter_config.json';
export const PEFT_WEIGHTS = 'adapter_model.safetensors';
export const DIFFUSERS_LORA_WEIGHTS = 'pytorch_lora_weights.safetensors';
const DIFFUSERS_METADATA = 'lora_adapter_metadata'; // diffusers loaders/lora_base.py
const ORIGIN_KEYS: Record<keyof LoraOrigin, string> = { baseModel: 'if.base_model', stage: 'if.stage', prediction: 'if.prediction', variance: 'if.variance' };

/** What stands around a module's name, by layout. First match wins; what is written is the first of each. */
const PREFIXES: readonly { prefix: string; component?: Component }[] = [
  { prefix: 'unet.base_model.model.', component: 'unet' }, { prefix: 'unet.', component: 'unet' },
  { prefix: 'text_encoder.base_model.model.', component: 'text_encoder' }, { prefix: 'text_encoder.', component: 'text_encoder' },
  { prefix: 'base_model.model.' }, { prefix: '' }, // PEFT: of whatever network the adapter is for
];
const SUFFIXES: readonly { suffix: string; part: 'down' | 'up' }[] = [
  { suffix: '.lora_A.weight', part: 'down' }, { suffix: '.lora_B.weight', part: 'up' },
  { suffix: '.lora.down.weight', part: 'down' }, { suffix: '.lora.up.weight', part: 'up' },
];

/**
 * Opens an adapter: a folder with one of the two layouts, or a safetensors file of diffusers' layout. Without a recorded
 * alpha it is the rank, as diffusers assumes.
 * @throws IFError `NOT_FOUND`, `IO`; `FILE_FORMAT` when factors are missing or do not fit together; `UNSUPPORTED`, naming the
 *   field or tensor, for other adapters than plain LoRA
 */
export async function openLora(target: string): Promise<LoraAdapter> {
  const info = await stat(target).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') throw new IFError('NOT_FOUND', `${target}: no such file or folder`, { cause });
    throw ioError('reading', target, cause);
  });
  const names = info.isDirectory() ? await listFolder(target) : [];
  const config = names.includes(PEFT_CONFIG) ? await readJson(path.join(target, PEFT_CONFIG)) : undefined;
  const weights = config === undefined ? DIFFUSERS_LORA_WEIGHTS : PEFT_WEIGHTS;
  if (info.isDirectory() && !names.includes(weights)) {
    throw new IFError('NOT_FOUND', `${target}: expected ${config === undefined ? `${PEFT_CONFIG} and ${PEFT_WEIGHTS}, or ${DIFFUSERS_LORA_WEIGHTS}` : PEFT_WEIGHTS}, found ${firstNames(names) || 'an empty folder'}`);
  }
  const file = info.isDirectory() ? path.join(target, weights) : target;
  const source = await openSafetensors(file);
  try {
    const where = config === undefined ? `${file}: ${DIFFUSERS_METADATA}` : path.join(target, PEFT_CONFIG);
    const settings = new Map<Component | '', JsonObject>();
    if (isJsonObject(config)) settings.set('', config);
    else if (source.metadata[DIFFUSERS_METADATA] !== undefined) splitMetadata(parseJson(source.metadata[DIFFUSERS_METADATA], where), where, settings);
    for (const [component, fields] of settings) checkSettings(fields, component ? `${where}: ${component}` : where);
    const modules = pairFactors(source.specs, file).map(({ component, name, down, up }): LoraModule => {
      const rank = down.shape[0]!;
      const fields = settings.get(component) ?? settings.get('');
      return { component, name, rank, alpha: fields ? alphaOf(fields, name, where) : rank, down, up };
    });
    const base = isJsonObject(config) && typeof config['base_model_name_or_path'] === 'string' ? { baseModel: config['base_model_name_or_path'] } : {};
    const recorded = Object.entries(ORIGIN_KEYS).flatMap(([key, name]) => (source.metadata[name] === undefined ? [] : [[key, source.metadata[name]]]));
    return { file, modules, origin: { ...base, ...Object.fromEntries(recorded) as LoraOrigin }, read: (tensor) => source.read(tensor.name), close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** The factors of every module, in the order of the file. */
function pairFactors(specs: ReadonlyMap<string, TensorSpec>, file: string): Pick<LoraModule, 'component' | 'name' | 'down' | 'up'>[] {
  const found = new Map<string, { component: Component; name: string; down?: TensorSpec; up?: TensorSpec }>();
  for (const spec of specs.values()) {
    const suffix = SUFFIXES.find((s) => spec.name.endsWith(s.suffix));
    if (!suffix || spec.shape.length !== 2 || !isWeightDType(spec.dtype)) {
      throw new IFError('UNSUPPORTED', `${file}: tensor ${JSON.stringify(spec.name)} ${shapeText(spec.shape)} of ${spec.dtype} is no factor of a plain LoRA (names end in ${SUFFIXES.map((s) => s.suffix).join(', ')})`);
    }
    const { prefix, component: named } = PREFIXES.find((p) => spec.name.startsWith(p.prefix))!;
    const name = spec.name.slice(prefix.length, -suffix.suffix.length);
    const component = named ?? (name.startsWith('encoder.') ? 'text_encoder' : 'unet'); // T5EncoderModel has all its layers under encoder
    const key = `${component}/${name}`;
    const module = found.get(key) ?? { component, name };
    if (module[suffix.part]) throw new IFError('FILE_FORMAT', `${file}: ${name} has two ${suffix.part} factors: ${module[suffix.part]!.name} and ${spec.name}`);
    found.set(key, { ...module, [suffix.part]: spec });
  }
  if (found.size === 0) throw new IFError('FILE_FORMAT', `${file}: no LoRA in it`);
  return [...found.values()].map(({ component, name, down, up }) => {
    if (!down || !up) throw new IFError('FILE_FORMAT', `${file}: ${name} has no ${down ? 'up' : 'down'} factor`);
    if (down.shape[0] !== up.shape[1] || down.shape[0] === 0) throw new IFError('FILE_FORMAT', `${file}: ${name}: factors ${shapeText(down.shape)} and ${shapeText(up.shape)} have no common rank`);
    return { component, name, down, up };
  });
}

/** `{"unet.r": 4, …}` → the fields of each network. */
function splitMetadata(json: unknown, where: string, settings: Map<Component | '', JsonObject>): void {
  if (!isJsonObject(json)) throw new IFError('FILE_FORMAT', `${where}: expected a JSON object, got ${describeJson(json)}`);
  for (const component of ['unet', 'text_encoder'] as const) {
    const fields = Object.entries(json).filter(([key]) => key.startsWith(`${component}.`)).map(([key, value]) => [key.slice(component.length + 1), value]);
    if (fields.length) settings.set(component, Object.fromEntries(fields) as JsonObject);
  }
}

/** Settings of PEFT's LoraConfig that change the arithmetic: the value of plain LoRA; null and absent mean the same. */
const PLAIN: Record<string, unknown> = { use_dora: false, use_rslora: false, bias: 'none', fan_in_fan_out: false, lora_bias: false, use_qalora: false };

function checkSettings(fields: JsonObject, where: string): void {
  const type = fields['peft_type'] ?? 'LORA';
  if (type !== 'LORA') throw new IFError('UNSUPPORTED', `${where}: peft_type ${describeJson(type)} is not supported (supported: LORA)`);
  for (const [key, plain] of Object.entries(PLAIN)) {
    const value = fields[key] ?? plain;
    if (value !== plain) throw new IFError('UNSUPPORTED', `${where}: ${key} ${describeJson(value)} is not supported (supported: ${describeJson(plain)})`);
  }
  for (const key of ['modules_to_save', 'layer_replication']) {
    const value = fields[key] ?? [];
    if (!Array.isArray(value) || value.length > 0) throw new IFError('UNSUPPORTED', `${where}: ${key} ${describeJson(value)} is not supported`);
  }
}

/** `alpha_pattern` for a module whose name ends with a key, else `lora_alpha` (peft tuners/tuners_utils.py, get_pattern_key). */
function alphaOf(fields: JsonObject, name: string, where: string): number {
  const pattern = fields['alpha_pattern'] ?? {};
  if (!isJsonObject(pattern)) throw new IFError('FILE_FORMAT', `${where}: alpha_pattern: expected an object, got ${describeJson(pattern)}`);
  const key = Object.keys(pattern).find((k) => {
    const literal = k.startsWith('^') ? k.slice(1) : k;
    if (!/^[\w.]+$/.test(literal)) throw new IFError('UNSUPPORTED', `${where}: alpha_pattern ${JSON.stringify(k)}: expressions are not supported, only names`);
    return name === literal || (literal === k && name.endsWith(`.${literal}`));
  });
  const alpha = key === undefined ? fields['lora_alpha'] : pattern[key];
  if (typeof alpha !== 'number' || !Number.isFinite(alpha)) throw new IFError('FILE_FORMAT', `${where}: lora_alpha: expected a number, got ${describeJson(alpha)}`);
  return alpha;
}

/**
 * Refuses an adapter that does not fit its network.
 * @param tensors those of the network: diffusersTensors(unetTable(config)), or t5Tensors(config)
 * @throws IFError `WEIGHTS` with every module that the network does not have or has in another shape
 */
export function checkLora(adapter: Pick<LoraAdapter, 'modules'>, component: Component, tensors: readonly NamedShape[], where: string): void {
  const shapes = new Map(tensors.filter(({ shape }) => shape.length === 2).map(({ name, shape }) => [name, shape]));
  const modules = adapter.modules.filter((module) => module.component === component);
  const unknown = modules.filter(({ name }) => !shapes.has(`${name}.weight`)).map(({ name }, i) => {
    const near = i < 3 ? nearestName(name, [...shapes.keys()].map((key) => key.replace(/\.weight$/, ''))) : undefined;
    return near ? `${name} (did you mean ${near}?)` : name;
  });
  const misshapen = modules.flatMap(({ name, up, down }) => {
    const shape = shapes.get(`${name}.weight`);
    return shape && (shape[0] !== up.shape[0] || shape[1] !== down.shape[1]) ? [`${name} (${shapeText(shape)}, the adapter's product is ${shapeText([up.shape[0]!, down.shape[1]!])})`] : [];
  });
  const parts = ([[unknown, 'are no linear layers of the network'], [misshapen, 'have another shape']] as const)
    .filter(([names]) => names.length > 0).map(([names, what]) => `${names.length} modules ${what}: ${firstNames(names)}`);
  if (parts.length) throw new IFError('WEIGHTS', `${where}: the adapter does not fit the ${component}: ${parts.join('; ')}`);
}

/**
 * Writes PEFT's layout into an existing folder.
 * @param tensors those of the network, so that target_modules can name layers by their ends where all of them are adapted
 * @param dtype of the factors. Default: as they are
 * @throws IFError `INVALID_ARGUMENT` when the adapter is for two networks; `IO`
 */
export async function writeLoraPeft(dir: string, adapter: LoraAdapter, tensors: readonly NamedShape[], dtype?: WeightDType): Promise<void> {
  const components = new Set(adapter.modules.map(({ component }) => component));
  if (components.size !== 1) throw new IFError('INVALID_ARGUMENT', `PEFT's layout holds one network, the adapter has ${[...components].join(' and ')}: write diffusers' layout`);
  const [component] = components as Set<Component>;
  const autoMapping = component === 'unet'
    ? { base_model_class: 'UNet2DConditionModel', parent_library: 'diffusers.models.unets.unet_2d_condition' }
    : { base_model_class: 'T5EncoderModel', parent_library: 'transformers.models.t5.modeling_t5' };
  await writeSafetensors(path.join(dir, PEFT_WEIGHTS), factors(adapter, () => 'base_model.model.', dtype), fileMetadata(adapter.origin));
  await writeJson(path.join(dir, PEFT_CONFIG), {
    ...loraSettings(adapter.modules, tensors),
    auto_mapping: autoMapping, base_model_name_or_path: adapter.origin.baseModel ?? null, inference_mode: true, peft_type: 'LORA', revision: null, task_type: null,
  });
}

/**
 * Writes diffusers' layout into an existing folder, with ranks and alphas in the metadata, where load_lora_weights reads them.
 * @param tensors those of each network
 * @param dtype of the factors. Default: as they are
 * @throws IFError `IO`
 */
export async function writeLoraDiffusers(dir: string, adapter: LoraAdapter, tensors: Partial<Record<Component, readonly NamedShape[]>>, dtype?: WeightDType): Promise<void> {
  const settings: JsonObject = {};
  for (const component of ['unet', 'text_encoder'] as const) {
    const modules = adapter.modules.filter((module) => module.component === component);
    if (modules.length === 0) continue;
    for (const [key, value] of Object.entries(loraSettings(modules, tensors[component] ?? []))) settings[`${component}.${key}`] = value;
  }
  const metadata: [string, string][] = [...fileMetadata(adapter.origin), [DIFFUSERS_METADATA, JSON.stringify(settings, null, 2)]];
  await writeSafetensors(path.join(dir, DIFFUSERS_LORA_WEIGHTS), factors(adapter, (component) => `${component}.`, dtype), metadata);
}

/** The fields of PEFT's LoraConfig. */
function loraSettings(modules: readonly LoraModule[], tensors: readonly NamedShape[]): JsonObject {
  const [first] = modules as [LoraModule];
  const differing = (key: 'rank' | 'alpha'): Record<string, number> => Object.fromEntries(modules.filter((m) => m[key] !== first[key]).map((m) => [`^${m.name}`, m[key]]));
  return {
    alpha_pattern: differing('alpha'), bias: 'none', fan_in_fan_out: false, init_lora_weights: true, lora_alpha: first.alpha, lora_dropout: 0,
    r: first.rank, rank_pattern: differing('rank'), target_modules: targetModules(modules.map(({ name }) => name), tensors), use_dora: false, use_rslora: false,
  };
}

/** Ends such as `to_q` and `to_out.0`, as PEFT matches them, where every layer with that end is adapted; else whole names. */
function targetModules(names: readonly string[], tensors: readonly NamedShape[]): string[] {
  const adapted = new Set(names);
  const layers = tensors.filter(({ name, shape }) => shape.length === 2 && name.endsWith('.weight')).map(({ name }) => name.slice(0, -'.weight'.length));
  const end = (name: string): string => /[^.]+(?:\.\d+)?$/.exec(name)![0];
  const whole = (suffix: string): boolean => layers.length > 0 && layers.filter((layer) => layer === suffix || layer.endsWith(`.${suffix}`)).every((layer) => adapted.has(layer));
  return [...new Set(names.map((name) => (whole(end(name)) ? end(name) : name)))].sort();
}

function factors(adapter: LoraAdapter, prefix: (component: Component) => string, dtype?: WeightDType): WrittenTensor[] {
  return adapter.modules.flatMap((module) => SUFFIXES.slice(0, 2).map(({ suffix, part }) => ({
    ...module[part],
    dtype: dtype ?? module[part].dtype,
    name: `${prefix(module.component)}${module.name}${suffix}`,
    read: async () => ({ bytes: await adapter.read(module[part]), dtype: module[part].dtype }),
  })));
}

function fileMetadata(origin: LoraOrigin): [string, string][] {
  const known = (Object.entries(ORIGIN_KEYS) as [keyof LoraOrigin, string][]).flatMap(([key, name]): [string, string][] => (origin[key] === undefined ? [] : [[name, origin[key]]]));
  return [['format', 'pt'], ...known];
}
