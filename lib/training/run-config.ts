import type { Shape } from '../data/dataset.js';
import { IFError } from '../errors.js';
import { bucketShapes } from './buckets.js';
import { loraLayers } from './lora.js';
import type { TrainableModel } from './model.js';
import type { ResolvedConfig } from './resolve-config.js';

/** A configuration in which model and data have decided what the file left open. It is itself a valid configuration. */
export type RunConfig = Omit<ResolvedConfig, 'size' | 'steps' | 'epochs' | 'microBatch' | 'objective' | 'validation' | 'model'> & {
  model: ResolvedConfig['model'];
  stage: 1 | 2 | 3;
  size: number;
  steps: number;
  microBatch: number;
  objective: ResolvedConfig['objective'] & { prediction: 'epsilon' | 'v_prediction'; variance: 'learned' | 'fixed' };
  validation: false | (Exclude<ResolvedConfig['validation'], false> & { pictures: number });
};

/** Sides of buckets are multiples of it, and of what the UNet and the reduction divide by: pixels below are too fine to matter. */
const BUCKET_MULTIPLE = 8;

export interface DataLengths {
  /** Pictures of `data`, and how messages call it. */
  data: { length: number; description: string };
  /** Pictures of `validation.data`, when the configuration has it. */
  validation?: number;
}

/**
 * Fills in what depends on model and data, and checks the configuration against them.
 * @throws IFError `INVALID_ARGUMENT` naming the key; `NOT_FOUND` when there are no pictures; `UNSUPPORTED`
 */
export function completeConfig(config: ResolvedConfig, model: TrainableModel, lengths: DataLengths): RunConfig {
  const upscales = model.noiser !== undefined;
  const { size, lowRes } = pictureSizes(config, model, upscales);
  const validation = completeValidation(config, lengths);
  if (config.lora) loraLayers(config.lora, { unet: model.config, text: model.trainTextEncoder ? model.text.config : undefined }); // refuses unknown layers
  const { epochs, steps, ...rest } = config;
  const visits = (epochs ?? 0) * (lengths.data.length - heldOutPictures({ validation })) * (config.priorPreservation ? 2 : 1);
  return {
    ...rest,
    model: { ...config.model, ...(model.trainTextEncoder ? {} : { textDtype: config.model.textDtype ?? config.dtype }) },
    stage: checkedStage(config, model, upscales),
    size,
    ...(lowRes ? { lowRes } : {}),
    steps: steps ?? Math.max(1, Math.ceil(visits / config.batchSize)),
    microBatch: config.microBatch ?? config.batchSize / config.devices.length,
    objective: { ...config.objective, ...target(config, model, upscales) },
    validation,
  };
}

function fail(key: string, message: string): never {
  throw new IFError('INVALID_ARGUMENT', `${key}: ${message}`);
}

function checkedStage({ stage }: ResolvedConfig, { folder }: TrainableModel, upscales: boolean): 1 | 2 | 3 {
  if (stage !== undefined && (stage > 1) !== upscales) {
    fail('stage', `the configuration is for stage ${stage}, but ${folder.dir} is ${upscales ? 'an upscaling stage (II or III)' : 'a stage I'}`);
  }
  return stage ?? (upscales ? 2 : 1);
}

function pictureSizes(config: ResolvedConfig, { config: unet, folder }: TrainableModel, upscales: boolean): Pick<ResolvedConfig, 'lowRes'> & { size: number } {
  const size = config.size ?? unet.sampleSize ?? fail('size', `${folder.unet}/config.json has no sample_size; say the size of the pictures`);
  const multiple = 2 ** (unet.blockOutChannels.length - 1);
  if (size % multiple !== 0) fail('size', `expected a multiple of ${multiple} (the UNet halves it ${unet.blockOutChannels.length - 1} times), got ${size}`);
  if (!upscales) {
    if (config.lowRes) fail('lowRes', `is for stages II and III, but ${folder.dir} is a stage I`);
    return { size, lowRes: undefined };
  }
  const lowRes = config.lowRes ?? { filter: 'bicubic' as const, factor: 4, stage1: undefined };
  if (size % lowRes.factor !== 0) fail('lowRes.factor', `expected a divisor of the size ${size}, got ${lowRes.factor}`);
  return { size, lowRes };
}

/**
 * The shapes of the pictures that are trained on: the square, or those of the buckets.
 * @throws IFError `INVALID_ARGUMENT` when there can be none of that size
 */
export function pictureShapes({ size, buckets, lowRes }: RunConfig, { config: unet }: TrainableModel): Shape[] {
  if (!buckets) return [{ width: size, height: size }];
  const multiple = leastCommonMultiple(BUCKET_MULTIPLE, leastCommonMultiple(2 ** (unet.blockOutChannels.length - 1), lowRes?.factor ?? 1));
  if (size % multiple !== 0) fail('buckets', `need a size that is a multiple of ${multiple}, got ${size}`);
  return bucketShapes(size, multiple, buckets.maxRatio);
}

function leastCommonMultiple(a: number, b: number): number {
  const divisor = (x: number, y: number): number => (y === 0 ? x : divisor(y, x % y));
  return (a / divisor(a, b)) * b;
}

function target({ objective }: ResolvedConfig, { config, scheduler, folder }: TrainableModel, upscales: boolean): Pick<RunConfig['objective'], 'prediction' | 'variance'> {
  const { predictionType, varianceType } = scheduler.config;
  const channels = upscales ? config.inChannels / 2 : config.inChannels;
  if (objective.prediction === undefined && predictionType === 'sample') {
    throw new IFError('UNSUPPORTED', `${folder.scheduler}: prediction_type "sample" cannot be trained (supported: epsilon, v_prediction)`);
  }
  if (objective.variance === undefined && varianceType === 'learned') {
    throw new IFError('UNSUPPORTED', `${folder.scheduler}: variance_type "learned" cannot be trained (supported: learned_range): set objective.variance to "learned" to train it as learned_range, or to "fixed"`);
  }
  if (objective.variance === 'learned' && config.outChannels !== 2 * channels) {
    fail('objective.variance', `"learned" needs a UNet with ${2 * channels} output channels, this one has ${config.outChannels}: use "fixed"`);
  }
  return {
    prediction: objective.prediction ?? (predictionType as 'epsilon' | 'v_prediction'),
    variance: objective.variance ?? (varianceType === 'learned_range' ? 'learned' : 'fixed'),
  };
}

function completeValidation({ validation }: ResolvedConfig, { data, validation: separate }: DataLengths): RunConfig['validation'] {
  if (data.length === 0) throw new IFError('NOT_FOUND', `data: ${data.description} has no pictures`);
  if (validation === false) return false;
  if (validation.data) {
    if (!separate) throw new IFError('NOT_FOUND', 'validation.data: it has no pictures');
    return { ...validation, pictures: Math.min(validation.pictures ?? 16, separate) };
  }
  const pictures = validation.pictures ?? Math.min(16, Math.floor(data.length / 10));
  if (pictures >= data.length) fail('validation.pictures', `${pictures} of ${data.length} pictures would leave none to train on; use fewer, validation.data, or validation: false`);
  return pictures === 0 ? false : { ...validation, pictures };
}

/** How many pictures of `data` are kept out of training. */
export function heldOutPictures({ validation }: Pick<RunConfig, 'validation'>): number {
  return validation && !validation.data ? validation.pictures : 0;
}

/** Keys that may differ when a run goes on: they change neither the weights (but for rounding) nor what is drawn. */
const FREE_KEYS = ['out', 'devices', 'threads', 'microBatch', 'gradientCheckpointing', 'validation', 'previews', 'checkpoints', 'saveDtype', 'priorPreservation.generate'];

/**
 * The keys, e.g. `optimizer.lr`, in which two configurations of a run differ so that one cannot continue the other.
 * `steps` may differ while the learning rate is constant.
 */
export function trajectoryDifferences(before: RunConfig, now: RunConfig): string[] {
  const constant = before.schedule.type === 'constant' && now.schedule.type === 'constant';
  const keys = differences(before, now, '', new Set(constant ? [...FREE_KEYS, 'steps'] : FREE_KEYS));
  return heldOutPictures(before) === heldOutPictures(now) ? keys : [...keys, 'validation.pictures'];
}

function differences(a: unknown, b: unknown, path: string, free: ReadonlySet<string>): string[] {
  if (free.has(path)) return [];
  const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject(a) || !isObject(b)) return JSON.stringify(a) === JSON.stringify(b) ? [] : [path];
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].flatMap((key) => differences(a[key], b[key], path ? `${path}.${key}` : key, free));
}
