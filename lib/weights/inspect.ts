// What a file or folder holds: configuration, parameters, types, sizes, and what is missing or unexpected.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { isJsonObject, readJson, type JsonObject } from '../models/json.js';
import { parseModelIndex } from '../models/model-index.js';
import { parseT5Config } from '../models/t5-config.js';
import { parseUNetConfig } from '../models/unet-config.js';
import { unetConfigJson } from '../models/unet-config-json.js';
import { firstNames } from '../suggest.js';
import { ORIGINAL_CONFIG, ORIGINAL_WEIGHTS, readOriginalConfig } from './convert.js';
import { elements, tensorBytes, type TensorSpec } from './file-dtype.js';
import { findWeights, listFolder } from './folder.js';
import { DIFFUSERS_LORA_WEIGHTS, openLora, PEFT_CONFIG, type LoraOrigin } from './lora-format.js';
import { describePickle } from './pickle.js';
import { compareTensors, type TensorDifferences } from './tensor-check.js';
import { diffusersTensors, unetTable, type NamedShape } from './tensor-map.js';
import { T5_ALIASES, t5Tensors } from './t5-tensors.js';
import { openSafetensors, openStateDict, openWeights, type TensorSource } from './tensor-source.js';
import { TorchArchive } from './torch-archive.js';
import { TensorRef } from './torch-globals.js';

export interface TensorCount {
  tensors: number;
  parameters: number;
  bytes: number;
}

export interface ComponentReport {
  name: string;
  /** Class of the network or scheduler, e.g. UNet2DConditionModel. */
  className?: string;
  files: string[];
  config?: JsonObject;
  /** Of the weights, in all and by type. */
  total?: TensorCount;
  dtypes?: Record<string, TensorCount>;
  /** Against what the configuration asks for; left out for networks that this program does not know. */
  differences?: TensorDifferences;
  /** Why it could not be read. */
  problem?: string;
}

export interface InspectReport {
  path: string;
  kind: 'pipeline' | 'component' | 'original' | 'lora' | 'safetensors' | 'archive';
  /** Class of the pipeline. */
  className?: string;
  components: ComponentReport[];
  /** Of a LoRA adapter. */
  lora?: { ranks: number[]; alphas: number[]; modules: string[]; origin: LoraOrigin };
  /** Of a safetensors file. */
  metadata?: Record<string, string>;
  /** Of a torch archive that is no plain state dict: its keys, and what is under them. */
  contents?: Record<string, string>;
}

/**
 * Describes a pipeline folder, a component folder, a checkpoint folder of the original IF code, a LoRA adapter, a
 * safetensors file or a torch archive. Headers and configurations are read, no weights.
 * @throws IFError `NOT_FOUND`, `IO`; `FILE_FORMAT`, `UNSUPPORTED` for a single file that cannot be read. In folders such
 *   errors are the `problem` of a component
 */
export async function inspect(target: string): Promise<InspectReport> {
  const info = await stat(target).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') throw new IFError('NOT_FOUND', `${target}: no such file or folder`, { cause });
    throw ioError('reading', target, cause);
  });
  if (!info.isDirectory()) return target.endsWith('.safetensors') ? inspectSafetensors(target) : inspectArchive(target);
  const names = await listFolder(target);
  if (names.includes('model_index.json')) return inspectPipeline(target, names);
  if (names.includes(ORIGINAL_CONFIG)) return { path: target, kind: 'original', components: [await inspectOriginal(target)] };
  if (names.includes(PEFT_CONFIG) || names.includes(DIFFUSERS_LORA_WEIGHTS)) return inspectLora(target);
  if (names.includes('config.json')) return { path: target, kind: 'component', components: [await inspectComponent(target, path.basename(path.resolve(target)))] };
  throw new IFError('NOT_FOUND', `${target}: expected model_index.json, config.json or ${ORIGINAL_CONFIG} in it, found ${firstNames(names) || 'an empty folder'}`);
}

/** Whether nothing is wrong with what was found. */
export function isSound(report: InspectReport): boolean {
  return report.components.every(({ problem, differences: d }) => problem === undefined && (!d || d.missing.length + d.unexpected.length + d.misshapen.length === 0));
}

async function inspectPipeline(target: string, names: string[]): Promise<InspectReport> {
  const where = path.join(target, 'model_index.json');
  const { className, components } = parseModelIndex(await readJson(where), where);
  const reports: ComponentReport[] = [];
  for (const [name, type] of components) {
    if (names.includes(name)) reports.push({ ...await inspectComponent(path.join(target, name), name), className: type });
    else reports.push({ name, className: type, files: [], problem: 'model_index.json names it, the folder is missing' });
  }
  return { path: target, kind: 'pipeline', className, components: reports };
}

/** A folder with config.json and weights, or with the few files of a scheduler or tokenizer. */
function inspectComponent(dir: string, name: string): Promise<ComponentReport> {
  return filledReport(name, async (report) => {
    const names = await listFolder(dir);
    const configName = ['config.json', 'scheduler_config.json'].find((file) => names.includes(file));
    const where = path.join(dir, configName ?? '');
    const config = configName === undefined ? undefined : await readJson(where);
    if (isJsonObject(config)) {
      report.config = config;
      const [architecture] = Array.isArray(config['architectures']) ? config['architectures'] as unknown[] : [];
      const className = config['_class_name'] ?? architecture;
      if (typeof className === 'string') report.className = className;
    }
    report.files = names;
    if (configName !== 'config.json') return; // a scheduler or tokenizer
    const component = isJsonObject(config) && config['_class_name'] !== undefined ? 'unet' : 'text_encoder'; // diffusers' or transformers' file names
    const { files } = await findWeights(dir, component, { archives: true });
    report.files = files.map((file) => path.basename(file));
    await countTensors(report, await openWeights(files), expectedTensors(config, where));
  });
}

function inspectOriginal(dir: string): Promise<ComponentReport> {
  return filledReport('unet', async (report) => {
    report.files = [ORIGINAL_CONFIG, ORIGINAL_WEIGHTS];
    const where = path.join(dir, ORIGINAL_CONFIG);
    const config = unetConfigJson(await readOriginalConfig(where));
    report.config = config;
    const table = unetTable(parseUNetConfig(config, where));
    await countTensors(report, await openStateDict(path.join(dir, ORIGINAL_WEIGHTS)), table.map((row) => row.original));
  });
}

async function inspectLora(target: string): Promise<InspectReport> {
  const adapter = await openLora(target);
  const { modules, origin } = adapter;
  await adapter.close();
  const components = (['unet', 'text_encoder'] as const).flatMap((name): ComponentReport[] => {
    const tensors = modules.filter(({ component }) => component === name).flatMap(({ down, up }) => [down, up]);
    return tensors.length ? [{ name, files: [], ...counts(tensors) }] : [];
  });
  const distinct = (values: number[]): number[] => [...new Set(values)].sort((a, b) => a - b);
  const lora = { ranks: distinct(modules.map(({ rank }) => rank)), alphas: distinct(modules.map(({ alpha }) => alpha)), modules: modules.map(({ name }) => name), origin };
  return { path: target, kind: 'lora', components, lora };
}

async function inspectSafetensors(file: string): Promise<InspectReport> {
  const report: ComponentReport = { name: path.basename(file), files: [path.basename(file)] };
  const source = await openSafetensors(file);
  await countTensors(report, source);
  return { path: file, kind: 'safetensors', components: [report], metadata: source.metadata };
}

/** A state dict, or a dict that has one under `state_dict`. */
async function inspectArchive(file: string): Promise<InspectReport> {
  const archive = await TorchArchive.open(file);
  const { root } = archive;
  await archive.close();
  const plain = root instanceof Map && [...root.values()].every((value) => value instanceof TensorRef);
  const nested = root instanceof Map && root.get('state_dict') instanceof Map;
  const components: ComponentReport[] = [];
  if (plain || nested) {
    const report: ComponentReport = { name: nested ? 'state_dict' : path.basename(file), files: [path.basename(file)] };
    await countTensors(report, await openStateDict(file, nested ? ['state_dict'] : []));
    components.push(report);
  }
  const contents = plain ? undefined
    : root instanceof Map ? Object.fromEntries([...root].map(([key, value]) => [String(key), value instanceof Map ? `a dict of ${value.size}` : describePickle(value)]))
      : { '': describePickle(root) };
  return { path: file, kind: 'archive', components, ...(contents ? { contents } : {}) };
}

/** A report that `fill` completes; an error of this library becomes its problem. */
async function filledReport(name: string, fill: (report: ComponentReport) => Promise<void>): Promise<ComponentReport> {
  const report: ComponentReport = { name, files: [] };
  try {
    await fill(report);
  } catch (error) {
    if (!(error instanceof IFError)) throw error;
    report.problem = error.message;
  }
  return report;
}

/** Counts the tensors of a source, compares them, and closes it. */
async function countTensors(report: ComponentReport, source: TensorSource, expected?: readonly NamedShape[]): Promise<void> {
  Object.assign(report, counts(source.specs.values()));
  if (expected) report.differences = compareTensors(source.specs, expected, T5_ALIASES);
  await source.close();
}

function counts(specs: Iterable<TensorSpec>): Required<Pick<ComponentReport, 'total' | 'dtypes'>> {
  const total: TensorCount = { tensors: 0, parameters: 0, bytes: 0 };
  const dtypes: Record<string, TensorCount> = {};
  for (const spec of specs) {
    addTensor(total, spec);
    addTensor(dtypes[spec.dtype] ??= { tensors: 0, parameters: 0, bytes: 0 }, spec);
  }
  return { total, dtypes };
}

function addTensor(count: TensorCount, spec: TensorSpec): void {
  count.tensors += 1;
  count.parameters += elements(spec.shape);
  count.bytes += tensorBytes(spec);
}

/** What a config.json asks for; undefined for networks that are neither an IF UNet nor a T5. */
function expectedTensors(config: unknown, where: string): NamedShape[] | undefined {
  if (!isJsonObject(config)) return undefined;
  if (config['_class_name'] === 'UNet2DConditionModel') return diffusersTensors(unetTable(parseUNetConfig(config, where)));
  return config['model_type'] === 't5' ? t5Tensors(parseT5Config(config, where)) : undefined;
}
