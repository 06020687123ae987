// LoRA in training: which layers, how many numbers, and the adapter that becomes of them.
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { TrainerOptions } from '../addon.js';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import type { T5Config } from '../models/t5-config.js';
import type { UNetConfig } from '../models/unet-config.js';
import { firstNames, nearestName } from '../suggest.js';
import type { WeightDType } from '../weights/file-dtype.js';
import type { Component } from '../weights/folder.js';
import { openLora, writeLoraDiffusers, writeLoraPeft, type LoraAdapter, type LoraModule } from '../weights/lora-format.js';
import { STAGE_NAMES } from '../weights/lora.js';
import { diffusersTensors, unetTable, type NamedShape } from '../weights/tensor-map.js';
import { t5Tensors } from '../weights/t5-tensors.js';
import type { ResolvedConfig } from './resolve-config.js';
import type { RunConfig } from './run-config.js';

type LoraConfig = NonNullable<ResolvedConfig['lora']>;

/** The attention's layers: what is adapted unless the configuration says otherwise. */
export const UNET_TARGETS = ['to_q', 'to_k', 'to_v', 'to_out.0', 'add_k_proj', 'add_v_proj'];
export const TEXT_TARGETS = ['q', 'k', 'v', 'o'];

/** A linear layer: its name and the shape (out, in) of its weight. */
interface Layer {
  name: string;
  shape: readonly number[];
}

export interface AdaptedNetworks {
  unet: UNetConfig;
  /** When the text encoder is trained as well. */
  text: T5Config | undefined;
}

/** The tensors of the networks that get factors. */
function networkTensors({ unet, text }: AdaptedNetworks): Partial<Record<Component, NamedShape[]>> {
  return { unet: diffusersTensors(unetTable(unet)), ...(text ? { text_encoder: t5Tensors(text) } : {}) };
}

/** Tables of T5 that are looked up, not multiplied. */
const TABLES = /(^|\.)(shared|relative_attention_bias)$/;

/**
 * The layers that get factors.
 * @throws IFError `INVALID_ARGUMENT` for a target that is no layer, with the nearest that is one
 */
export function loraLayers({ targets, textTargets }: LoraConfig, networks: AdaptedNetworks): Layer[] {
  const found = (component: Component, key: string, wanted: readonly string[]): Layer[] => {
    const layers = (networkTensors(networks)[component] ?? []).filter(({ name, shape }) => shape.length === 2 && name.endsWith('.weight'))
      .map(({ name, shape }) => ({ name: name.slice(0, -'.weight'.length), shape })).filter(({ name }) => !TABLES.test(name));
    const fits = (name: string, target: string): boolean => name === target || name.endsWith(`.${target}`);
    for (const target of wanted) {
      if (layers.some(({ name }) => fits(name, target))) continue;
      const ends = [...new Set(layers.map(({ name }) => /[^.]+(?:\.\d+)?$/.exec(name)![0]))];
      const near = nearestName(target, [...ends, ...layers.map(({ name }) => name)]);
      throw new IFError('INVALID_ARGUMENT', `lora.${key}: "${target}" is no linear layer of the ${component}${near ? `; did you mean "${near}"?` : ''} (layers end in ${firstNames(ends)})`);
    }
    return layers.filter(({ name }) => wanted.some((target) => fits(name, target)));
  };
  return [...found('unet', 'targets', targets), ...(networks.text ? found('text_encoder', 'textTargets', textTargets) : [])];
}

/** Trained numbers. */
export function loraParameters(config: LoraConfig, networks: AdaptedNetworks): number {
  return loraLayers(config, networks).reduce((sum, { shape }) => sum + config.rank * (shape[0]! + shape[1]!), 0);
}

/** Numbers of the weights that copies for sampling have for themselves. */
export function loraCopiedWeights(config: LoraConfig, networks: AdaptedNetworks): number {
  return loraLayers(config, networks).reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
}

/** As the addon takes them; null: the whole model is trained. */
export function loraOptions({ lora }: Pick<RunConfig, 'lora'>): TrainerOptions['lora'] {
  if (!lora) return null;
  const { rank, alpha, dropout, targets, textTargets } = lora;
  return { rank, alpha: alpha ?? rank, dropout, targets, textTargets };
}

/**
 * Writes an adapter in both layouts: diffusers' into `dir`, PEFT's into `dir`/peft/NETWORK.
 * @param files a trainer's factors of each network
 * @param dtype of the written factors
 * @throws IFError `IO`; `FILE_FORMAT` when a file is damaged; `WEIGHTS` when a value does not fit into float16
 */
export async function writeAdapter(dir: string, files: Partial<Record<Component, string>>, config: RunConfig, networks: AdaptedNetworks, dtype: WeightDType): Promise<void> {
  const opened: LoraAdapter[] = [];
  try {
    const origin = { baseModel: config.model.folder, stage: STAGE_NAMES[config.stage - 1]!, prediction: config.objective.prediction, variance: config.objective.variance };
    for (const file of Object.values(files)) opened.push(await openLora(file));
    const { alpha } = loraOptions(config)!;
    const modules = opened.flatMap((adapter) => adapter.modules.map((module): LoraModule => ({ ...module, alpha })));
    const owners = new Map(opened.flatMap((adapter) => adapter.modules.flatMap(({ down, up }) => [[down, adapter], [up, adapter]] as const)));
    const adapter: LoraAdapter = { file: dir, modules, origin, read: (tensor) => owners.get(tensor)!.read(tensor), close: async () => undefined };
    const tensors = networkTensors(networks);
    await mkdir(dir, { recursive: true });
    await writeLoraDiffusers(dir, adapter, tensors, dtype);
    for (const component of Object.keys(files) as Component[]) {
      const folder = path.join(dir, 'peft', component);
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
      await writeLoraPeft(folder, { ...adapter, modules: modules.filter((module) => module.component === component) }, tensors[component]!, dtype);
    }
  } catch (error) {
    throw ioError('writing', dir, error);
  } finally {
    for (const adapter of opened) await adapter.close();
  }
}
