import path from 'node:path';
import { isJsonObject } from '../models/json.js';
import type { TrainingConfig } from './config.js';
import { dataSchema } from './data-schema.js';
import { TEXT_TARGETS, UNET_TARGETS } from './lora.js';
import { boolean, choice, json, list, number, object, optional, orFalse, Place, text, union, type Infer, type Schema } from './schema.js';

const STEPS = { min: 1, max: 1e9, integer: true } as const;
const PROBABILITY = { min: 0, max: 1 } as const;

const multiplier = number({ min: 0, max: 1e6, default: 5 });
const portion = number({ min: 0.001, max: 1, default: 0.25 });

const schema = object({
  model: object({
    folder: text(),
    variant: optional(choice(['fp16', 'bf16'])),
    textFolder: optional(text()),
    fromScratch: boolean(false),
    unet: optional(json()),
    textEncoder: optional(json()),
    trainTextEncoder: boolean(false),
    textDtype: optional(choice(['f32', 'bf16', 'int8'])),
  }, { required: true }),
  stage: optional(choice([1, 2, 3])),
  data: dataSchema,
  size: optional(number({ min: 8, max: 4096, integer: true })),
  buckets: optional(object({ maxRatio: number({ min: 1, max: 16, default: 2 }) })),
  priorPreservation: optional(object({
    data: dataSchema,
    generate: optional(object({
      pictures: number({ min: 1, max: 1e6, integer: true, default: 200 }),
      stage1: optional(object({ folder: text(), variant: optional(choice(['fp16', 'bf16'])) }, { required: true })),
      timesteps: optional(numberOrText()),
    })),
    weight: number({ min: 0, max: 1e6, default: 1 }),
  })),
  lowRes: optional(object({
    filter: choice(['box', 'bilinear', 'bicubic', 'lanczos'], 'bicubic'),
    factor: number({ min: 2, max: 64, integer: true, default: 4 }),
    stage1: optional(object({
      folder: text(),
      variant: optional(choice(['fp16', 'bf16'])),
      strength: number({ min: 0.01, max: 0.95, default: 0.5 }),
      timesteps: numberOrText(25),
      guidance: optional(number({ min: -100, max: 100 })),
    })),
  })),
  captionDropout: number({ ...PROBABILITY, default: 0.1 }),
  objective: object({
    prediction: optional(choice(['epsilon', 'v_prediction'])),
    variance: optional(choice(['learned', 'fixed'])),
    loss: choice(['mse', 'huber'], 'mse'),
    huberDelta: number({ min: 1e-6, max: 1e6, default: 1 }),
    weighting: union({
      none: object({}),
      min_snr: object({ gamma: number({ min: 1e-3, max: 1e6, default: 5 }) }),
      debiased: object({ maxWeight: number({ min: 1, max: 1e6, default: 10 }) }),
    }, 'none'),
    timesteps: union({
      uniform: object({}),
      cubic: object({}),
      earlier: object({ portion, multiplier }),
      later: object({ portion, multiplier }),
      range: object({ begin: number({ ...PROBABILITY, default: 0.25 }), end: number({ ...PROBABILITY, default: 0.75 }), multiplier }),
    }, 'uniform'),
    noise: object({
      offset: number({ min: 0, max: 10, default: 0 }),
      pyramidDiscount: number({ ...PROBABILITY, default: 0 }),
      inputPerturbation: number({ min: 0, max: 10, default: 0 }),
    }),
  }),
  optimizer: object({
    lr: number({ min: 1e-12, max: 10, default: 1e-4 }),
    weightDecay: number({ min: 0, max: 10, default: 1e-2 }),
    beta1: number({ min: 0, max: 0.999999, default: 0.9 }),
    beta2: number({ min: 0, max: 0.9999999, default: 0.999 }),
    eps: number({ min: 1e-20, max: 1, default: 1e-8 }),
    clipNorm: number({ min: 0, max: 1e9, default: 1 }),
    normLimit: number({ min: 0, max: 1e30, default: 1e4 }),
  }),
  schedule: object({ type: choice(['constant', 'linear', 'cosine'], 'constant'), warmup: number({ min: 0, max: 1e9, integer: true, default: 0 }) }),
  lora: optional(object({
    rank: number({ min: 1, max: 65536, integer: true, default: 16 }),
    alpha: optional(number({ min: 1e-6, max: 1e6 })),
    dropout: number({ min: 0, max: 0.99, default: 0 }),
    targets: list(text(), { min: 1, max: 10000, default: UNET_TARGETS }),
    textEncoder: boolean(false),
    textTargets: list(text(), { min: 1, max: 10000, default: TEXT_TARGETS }),
  })),
  batchSize: number({ min: 1, max: 65536, integer: true, default: 4 }),
  microBatch: optional(number({ min: 1, max: 65536, integer: true })),
  steps: optional(number(STEPS)),
  epochs: optional(number({ min: 0.001, max: 1e6 })),
  ema: orFalse(object({ decay: number({ min: 0, max: 0.9999999, default: 0.9999 }) })),
  validation: orFalse(object({
    data: optional(dataSchema),
    pictures: optional(number({ min: 1, max: 100000, integer: true })),
    timesteps: number({ min: 1, max: 1000, integer: true, default: 8 }),
    every: number({ ...STEPS, default: 500 }),
  })),
  previews: orFalse(object({
    prompts: optional(list(text(), { min: 1, max: 64 })),
    every: number({ ...STEPS, default: 500 }),
    timesteps: numberOrText(25),
    guidance: optional(number({ min: -100, max: 100 })),
    seed: number({ min: 0, max: Number.MAX_SAFE_INTEGER, integer: true, default: 0 }),
  })),
  checkpoints: object({ every: number({ ...STEPS, default: 500 }), keep: number({ min: 1, max: 1e6, integer: true, default: 3 }) }),
  seed: number({ min: 0, max: Number.MAX_SAFE_INTEGER, integer: true, default: 0 }),
  dtype: choice(['f32', 'bf16'], 'bf16'),
  precision: choice(['exact', 'default', 'fast'], 'default'),
  gradientCheckpointing: boolean(false),
  devices: list(text(), { min: 1, max: 64, default: ['cpu'] }),
  threads: number({ min: 0, max: 4096, integer: true, default: 0 }),
  out: text(),
  saveDtype: choice(['f32', 'bf16', 'f16'], 'f32'),
}, { required: true });

/** A configuration with every default filled in; what needs the model or the data to be known stays optional. */
export type ResolvedConfig = Infer<typeof schema>;

/** A number of sampler steps, or a schedule's name. */
function numberOrText(fallback?: number): Schema<number | string> {
  const steps = number({ ...STEPS, max: 100000, ...(fallback === undefined ? {} : { default: fallback }) });
  const name = text();
  return {
    parse: (value, place) => (typeof value === 'string' ? name.parse(value, place) : steps.parse(value, place)),
    set: (_value, keys, value, place) => (/^\d+$/.test(value) ? steps : name).set(undefined, keys, value, place),
  };
}

/**
 * One assignment of a command line, `key.key=value`, applied to a configuration.
 * @throws IFError `INVALID_ARGUMENT` for unknown keys and values of another kind
 */
export function setValue(config: unknown, assignment: string): unknown {
  const place = new Place('--set');
  const [, name, value] = /^([\w.]+)=(.*)$/s.exec(assignment) ?? place.fail(`expected KEY=VALUE, e.g. optimizer.lr=1e-5, got "${assignment}"`);
  return schema.set(config, name!.split('.'), value!, place);
}

/**
 * Checks a configuration and fills in the defaults.
 * @param where how messages call it, e.g. the file
 * @param defaultOut `out` where the configuration has none
 * @throws IFError `INVALID_ARGUMENT` naming key, expected and got
 */
export function resolveConfig(config: unknown, where: string, defaultOut: string): ResolvedConfig {
  const place = new Place(where);
  const given = isJsonObject(config) && config['out'] === undefined ? { ...config, out: defaultOut } : config;
  const resolved = schema.parse(given, place);
  checkTogether(resolved, place);
  return resolved;
}

/** What no single key can tell. */
function checkTogether(config: ResolvedConfig, place: Place): void {
  const { model, steps, epochs, batchSize, devices, objective, schedule } = config;
  if ((steps === undefined) === (epochs === undefined)) place.fail(`steps, epochs: expected one of them, got ${steps === undefined ? 'none' : 'both'}`);
  if (model.unet && !model.fromScratch) place.at('model').at('unet').fail('only a model from scratch may have another network; set model.fromScratch, or leave it out');
  if (model.textEncoder && !(model.fromScratch && model.trainTextEncoder)) {
    place.at('model').at('textEncoder').fail('needs model.fromScratch and model.trainTextEncoder: there are no weights for it');
  }
  if (model.textDtype && model.trainTextEncoder) place.at('model').at('textDtype').fail('is of a text encoder that is not trained; leave it out with model.trainTextEncoder');
  if (config.lora) {
    if (model.fromScratch) place.at('lora').fail('needs the weights that it adapts; leave model.fromScratch out');
    if (model.trainTextEncoder) place.at('model').at('trainTextEncoder').fail('with lora the model is frozen; set lora.textEncoder to train factors of the text encoder');
    if (!config.lora.textEncoder && config.lora.textTargets.join() !== TEXT_TARGETS.join()) place.at('lora').at('textTargets').fail('needs lora.textEncoder: true');
    if (config.lora.textEncoder && model.textDtype) place.at('model').at('textDtype').fail('is of a text encoder that is not trained; leave it out with lora.textEncoder');
    if (config.lora.textEncoder && config.lowRes?.stage1) place.at('lowRes').at('stage1').fail('reads the embeddings of a text encoder that is not trained; leave it out with lora.textEncoder');
  }
  if (objective.timesteps.type === 'range' && !(objective.timesteps.begin < objective.timesteps.end)) {
    place.at('objective').at('timesteps').fail(`expected begin < end, got ${objective.timesteps.begin} and ${objective.timesteps.end}`);
  }
  if (config.lowRes?.stage1 && model.trainTextEncoder) place.at('lowRes').at('stage1').fail('reads the embeddings of a text encoder that is not trained; leave it out with model.trainTextEncoder');
  checkPriorPreservation(config, place.at('priorPreservation'));
  if (config.buckets && config.priorPreservation) place.at('buckets').fail('leave it out with priorPreservation: pictures of the class are square, and a step has pictures of one shape');
  if (new Set(devices).size !== devices.length) place.at('devices').fail(`expected each once, got ${devices.join(', ')}`);
  if (batchSize % devices.length !== 0) place.at('batchSize').fail(`expected a multiple of the ${devices.length} devices, got ${batchSize}`);
  const share = batchSize / devices.length;
  if (config.microBatch !== undefined && share % config.microBatch !== 0) {
    place.at('microBatch').fail(`expected a divisor of the ${share} pictures that a device has per step, got ${config.microBatch}`);
  }
  if (steps !== undefined && schedule.warmup >= steps && schedule.type !== 'constant') {
    place.at('schedule').at('warmup').fail(`expected fewer than the ${steps} steps of the run, got ${schedule.warmup}`);
  }
}

function checkPriorPreservation({ data, priorPreservation }: ResolvedConfig, place: Place): void {
  if (!priorPreservation) return;
  const prior = priorPreservation.data;
  if (priorPreservation.generate && !(prior.type === 'folder' && prior.caption !== undefined)) {
    place.at('generate').fail('needs data of type "folder" with a caption: the folder is filled, and the caption is the prompt');
  }
  if (data.type !== 'folder' || prior.type !== 'folder') return;
  // folders are read with all that is below them
  const [subject, others] = [path.resolve(data.path) + path.sep, path.resolve(prior.path) + path.sep];
  if (subject.startsWith(others) || others.startsWith(subject)) place.at('data').fail(`${prior.path} and the folder of the subject, ${data.path}, hold the same pictures: put the class beside it`);
}

// the types of a configuration file and the schema name the same keys, and what the types accept the schema reads
type Accepts<A, B extends A> = B;
export type TypesAgree = [
  Accepts<DeepPartial<ResolvedConfig>, DeepPartial<TrainingConfig>>,
  Accepts<keyof ResolvedConfig, keyof TrainingConfig>, Accepts<keyof TrainingConfig, keyof ResolvedConfig>,
];
type DeepPartial<T> = T extends readonly (infer E)[] ? DeepPartial<E>[] : T extends object ? { [K in keyof T]?: DeepPartial<T[K]> } : T;
