import { statfs } from 'node:fs/promises';
import { addon, type MemoryPlan } from '../addon.js';
import type { Shape } from '../data/dataset.js';
import { IFError } from '../errors.js';
import { t5Arithmetic, T5Encoder } from '../models/t5-encoder.js';
import { UNet } from '../models/unet.js';
import { ACTIVATION_MARGIN, availableMemory, gigabytes, isCuda, OVERHEAD_BYTES } from '../pipelines/memory-plan.js';
import type { Stage } from '../pipelines/stage.js';
import { PROMPT_TOKENS } from '../text/prompt-embeddings.js';
import { loraCopiedWeights, loraOptions, loraParameters } from './lora.js';
import type { TrainableModel } from './model.js';
import type { RunConfig } from './run-config.js';

/** What a run needs, before anything is loaded. */
export interface TrainingPlan {
  /** Replicas that share one memory: all of the CPU, one on a cuda device. */
  replicas: number;
  /** Of one replica: parameters, gradients, moments, average, frozen weights; and the rest of one micro-batch. */
  training: MemoryPlan;
  /** The text encoder that runs before training. */
  encoding: MemoryPlan | undefined;
  /** The copy that draws previews, while the step's activations are free. */
  preview: MemoryPlan | undefined;
  /** The stage I that draws low-resolution pictures before each step. */
  lowRes: MemoryPlan | undefined;
  checkpointBytes: number;
}

/**
 * Asks the meta backend for every phase of a run.
 * @param shapes of the pictures that are trained on: the largest counts
 * @param previewPictures pictures that are drawn together, with guidance; 0: none
 * @param stage1 draws low-resolution pictures
 */
export async function planTraining(model: TrainableModel, config: RunConfig, shapes: readonly Shape[], previewPictures: number, stage1: { stage: Stage } | undefined): Promise<TrainingPlan> {
  const { size, dtype, precision, microBatch, devices } = config;
  const device = devices[0]!;
  const { width, height } = shapes.reduce((largest, shape) => (shape.width * shape.height > largest.width * largest.height ? shape : largest));
  const options = { dtype, precision, checkpointing: config.gradientCheckpointing, ema: config.ema !== false, lora: loraOptions(config) };
  const training = await addon.planTrainer(JSON.stringify(model.config), model.trainTextEncoder ? JSON.stringify(model.text.config) : null, options, microBatch, height, width, PROMPT_TOKENS, device);
  const arithmetic = t5Arithmetic(config.model.textDtype ?? dtype, dtype);
  // parameters, gradients, two moments, and the average; of these all but the gradients are saved
  const copies = options.ema ? 5 : 4;
  const networks = { unet: model.config, text: model.trainTextEncoder ? model.text.config : undefined };
  const preview = previewPictures > 0 ? await UNet.plan(model.config, dtype, previewPictures, size, size, PROMPT_TOKENS, true, precision, device) : undefined;
  return {
    replicas: isCuda(device) ? 1 : devices.length,
    training,
    encoding: model.trainTextEncoder ? undefined : await T5Encoder.plan(model.text.config, arithmetic.dtype, arithmetic.int8Weights, 8, PROMPT_TOKENS, device),
    // with LoRA it shares the frozen weights, and so does the text encoder's copy
    preview: preview && config.lora ? { ...preview, weightBytes: loraCopiedWeights(config.lora, networks) * (dtype === 'bf16' ? 2 : 4) } : preview,
    lowRes: await stage1?.stage.plan(dtype, 1, height / config.lowRes!.factor, width / config.lowRes!.factor, PROMPT_TOKENS, true, precision, device),
    checkpointBytes: config.lora ? 4 * (copies - 1) * loraParameters(config.lora, networks) : (training.weightBytes * (copies - 1)) / copies,
  };
}

const phaseBytes = (plan: MemoryPlan | undefined): number => (plan ? plan.weightBytes + ACTIVATION_MARGIN * plan.activationBytes : 0);

/** Bytes at the worst moment of a run. */
export function peakBytes({ replicas, training, encoding, preview, lowRes }: TrainingPlan): number {
  const activations = Math.max(replicas * ACTIVATION_MARGIN * training.activationBytes, phaseBytes(preview), ACTIVATION_MARGIN * (lowRes?.activationBytes ?? 0));
  const steps = replicas * training.weightBytes + (lowRes?.weightBytes ?? 0) + activations;
  return OVERHEAD_BYTES + Math.max(steps, phaseBytes(encoding));
}

/** Bytes that every one of these devices has left. */
export function leastMemory(devices: readonly string[]): number {
  return Math.min(...devices.map((device) => availableMemory(device)));
}

/**
 * @param available bytes that may be taken
 * @throws IFError `OUT_OF_MEMORY` with the numbers and what would help
 */
export function checkTrainingPlan(plan: TrainingPlan, config: RunConfig, available = leastMemory(config.devices)): void {
  const needed = peakBytes(plan);
  if (needed <= available) return;
  const { replicas, training } = plan;
  const each = replicas > 1 ? ` on each of ${replicas} devices` : '';
  throw new IFError('OUT_OF_MEMORY', `training needs ${gigabytes(needed)} (${config.lora ? 'frozen weights, ' : ''}parameters, gradients, moments${config.ema ? ' and average' : ''} ${gigabytes(training.weightBytes)}, `
    + `activations ${gigabytes(training.activationBytes)}${each}), ${gigabytes(available)} are available: ${remedies(config, plan)}`);
}

function remedies(config: RunConfig, { replicas, training, preview }: TrainingPlan): string {
  const settings = [
    ...(phaseBytes(preview) > replicas * ACTIVATION_MARGIN * training.activationBytes ? ['previews: false'] : []),
    ...(config.gradientCheckpointing ? [] : ['set gradientCheckpointing: true']),
    ...(config.microBatch > 1 ? ['a smaller microBatch'] : []),
    ...(replicas > 1 ? ['fewer devices'] : []),
    ...(config.ema ? ['ema: false'] : []),
    ...(config.lora || config.model.fromScratch ? [] : ['train factors only (lora)']),
  ];
  return [...settings, settings.length > 0 ? 'or train a smaller model' : 'train a smaller model'].join(', ');
}

/**
 * @param dir an existing folder on the file system that checkpoints go to
 * @throws IFError `IO` when there is no room for even one
 */
export async function checkDiskSpace(plan: TrainingPlan, dir: string, onWarning: (message: string) => void, keep: number): Promise<void> {
  const system = await statfs(dir).catch(() => undefined);
  if (!system) return;
  const free = system.bavail * system.bsize;
  if (free < plan.checkpointBytes) {
    throw new IFError('IO', `${dir}: a checkpoint takes ${gigabytes(plan.checkpointBytes)}, ${gigabytes(free)} are free on the device: free some space, or choose another folder with --out`);
  }
  // one more than is kept exists while the newest is written
  const all = (keep + 1) * plan.checkpointBytes;
  if (free < all) onWarning(`${dir}: ${keep + 1} checkpoints take ${gigabytes(all)}, ${gigabytes(free)} are free on the device`);
}
