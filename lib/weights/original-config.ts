// `config.yml` of DeepFloyd's own checkpoints: the arguments of UNetModel and SuperResUNetModel (deep-floyd/IF
// deepfloyd_if/model/unet.py), from and to a UNetConfig.
import { parse, stringify } from 'yaml';
import { IFError } from '../errors.js';
import { ConfigReader } from '../models/config-reader.js';
import { describeJson, isJsonObject, type JsonObject } from '../models/json.js';
import type { Activation, BlockType, UNetConfig } from '../models/unet-config.js';

const LARGEST_FILE = 100_000; // characters; the published files have about 500
const COUNT = { min: 1, max: 65536 };
const MAX_LEVELS = 16;
const ACTIVATIONS = new Map<string | null, Activation>([['gelu', 'gelu'], ['silu', 'silu']]);
const SKIP_SCALE = 1 / 0.7071; // ResBlock.forward multiplies by 0.7071, diffusers divides by this
/** What the original code has no argument for (nn.py: GroupNorm32, timestep_embedding). */
const FIXED = {
  midBlock: 'cross_attn', normNumGroups: 32, normEps: 1e-5, timestepPostAct: null, flipSinToCos: true, freqShift: 0,
  resnetTimeScaleShift: 'scale_shift', crossAttentionNorm: 'group_norm',
} as const satisfies Partial<UNetConfig>;

/**
 * Reads a `config.yml`. A network of six input channels is a SuperResUNetModel.
 * @param where how messages call the file
 * @throws IFError `FILE_FORMAT` when it is damaged or its values do not fit together, `UNSUPPORTED` for networks that
 *   diffusers' IF blocks cannot express
 */
export function parseOriginalConfig(text: string, where: string): UNetConfig {
  const r: ConfigReader = new ConfigReader(yamlParams(text, where), where);
  const imageSize = r.integer('image_size', undefined, COUNT);
  const first = r.integer('model_channels', undefined, COUNT);
  const mult = integers(r, 'channel_mult', r.raw('channel_mult', [1, 2, 4, 8]));
  if (mult[0] !== 1) r.unsupported('channel_mult', mult, 'a list that begins with 1'); // diffusers' time embedding has the width of the first level
  const levels = mult.length;
  const activation = r.choice('activation', r.raw('activation', undefined), ACTIVATIONS);
  const inChannels = r.integer('in_channels', undefined, COUNT);
  const efficient = r.boolean('efficient_activation', false);
  const scale = r.boolean('scale_skip_connection', false) ? SKIP_SCALE : 1;
  const attended = rates(r, 'attention_resolutions', r.raw('attention_resolutions', undefined), imageSize);
  const blocks = mult.map((_, level): BlockType => (attended.includes(2 ** level) ? 'cross_attn' : 'resnet'));
  const disabled = disabledRates(r, imageSize);
  const headDim = r.integer('num_head_channels', -1, { min: -1, max: 65536 });
  if (headDim < 1) r.unsupported('num_head_channels', headDim, 'one width for all heads');
  const textWidth = r.integer('encoder_dim', undefined, COUNT);
  const crossWidth = r.integer('encoder_channels', undefined, COUNT);
  if (textWidth === crossWidth) r.unsupported('encoder_channels', crossWidth, 'another width than encoder_dim, so that there is a projection');

  const config: UNetConfig = {
    ...FIXED,
    sampleSize: imageSize,
    inChannels,
    outChannels: r.integer('out_channels', undefined, COUNT),
    blockOutChannels: mult.map((m) => m * first),
    layersPerBlock: r.integerPerBlock('num_res_blocks', 0, levels, { min: 1, max: 64 }),
    downBlocks: blocks,
    upBlocks: [...blocks].reverse(),
    crossAttentionDim: crossWidth,
    attentionHeadDim: new Array<number>(levels).fill(headDim),
    ...crossOnly(mult.map((_, level) => disabled.includes(2 ** level)), blocks),
    actFn: activation,
    timeEmbeddingDim: first * Math.max(...mult),
    timeEmbeddingActFn: efficient ? activation : null,
    classEmbedType: inChannels === 6 ? 'timestep' : null,
    additionEmbedTypeNumHeads: r.integer('att_pool_heads', undefined, COUNT),
    encoderHidDim: textWidth,
    resnetSkipTimeAct: efficient,
    resnetOutScaleFactor: scale,
    midBlockScaleFactor: scale,
  };
  r.only('use_scale_shift_norm', false, true);
  r.only('resblock_updown', false, true);
  r.only('dims', 2, 2);
  r.only('num_classes', null, null);
  r.only('interpolate_mode', 'bilinear', 'bilinear');
  // no effect on what a trained network computes: dropout, the loader's precision, what resblock_updown and num_head_channels replace
  for (const key of ['dropout', 'precision', 'conv_resample', 'num_heads', 'num_heads_upsample']) r.raw(key, null);
  r.refuseUnknown();
  return config;
}

/** The mapping under `params`. */
function yamlParams(text: string, where: string): JsonObject {
  if (text.length > LARGEST_FILE) throw new IFError('FILE_FORMAT', `${where}: ${text.length} characters; a config.yml has a few hundred`);
  let document: unknown;
  try {
    document = parse(text, { maxAliasCount: 0 });
  } catch (cause) {
    throw new IFError('FILE_FORMAT', `${where}: not valid YAML: ${(cause as Error).message.split('\n')[0]}`, { cause });
  }
  const params = isJsonObject(document) ? document['params'] : undefined;
  if (!isJsonObject(params)) throw new IFError('FILE_FORMAT', `${where}: params: expected the arguments of the network, got ${describeJson(params)}`);
  return params;
}

/** A list of whole numbers, or the text `1,2,3`. */
function integers(r: ConfigReader, key: string, value: unknown): number[] {
  const list = typeof value === 'string' ? value.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : part)) : value;
  return r.list(key, list, MAX_LEVELS, (field, item) => r.checkNumber(field, item, COUNT, true));
}

/** Downsampling rates: a list of them, or the text of the resolutions that have them. */
function rates(r: ConfigReader, key: string, value: unknown, imageSize: number): number[] {
  const list = integers(r, key, value);
  return typeof value === 'string' ? list.map((resolution) => Math.floor(imageSize / resolution)) : list;
}

/** Rates whose attention reads the text only. `true` compares rates with the letters of attention_resolutions when that is text: none. */
function disabledRates(r: ConfigReader, imageSize: number): number[] {
  const value = r.raw('disable_self_attentions', null);
  if (value === null || value === false || value === 0 || value === '') return [];
  if (value !== true) return rates(r, 'disable_self_attentions', value, imageSize);
  const attended = r.raw('attention_resolutions', undefined);
  return typeof attended === 'string' ? [] : rates(r, 'attention_resolutions', attended, imageSize);
}

/** Levels without attention have no say: where all others and the mid block agree, all levels get their value. */
function crossOnly(only: boolean[], blocks: BlockType[]): Pick<UNetConfig, 'onlyCrossAttention' | 'midBlockOnlyCrossAttention'> {
  const mid = only.at(-1)!;
  const agree = only.every((value, level) => value === mid || blocks[level] === 'resnet');
  return { onlyCrossAttention: agree ? only.map(() => mid) : only, midBlockOnlyCrossAttention: mid };
}

/**
 * The `config.yml` of a network: the inverse of parseOriginalConfig.
 * @param where how messages call the network, e.g. the path of its config.json
 * @throws IFError `UNSUPPORTED`, with the field, for networks that the original code cannot express
 */
export function originalConfigYaml(config: UNetConfig, where: string): string {
  const refuse = (field: string, value: unknown, supported: string): never => {
    const key = field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`); // as config.json has it
    throw new IFError('UNSUPPORTED', `${where}: ${key} ${describeJson(value)} has no counterpart in the original IF code (supported: ${supported})`);
  };
  for (const [key, value] of Object.entries(FIXED)) if (config[key as keyof typeof FIXED] !== value) refuse(key, config[key as keyof typeof FIXED], describeJson(value));
  const imageSize = config.sampleSize ?? refuse('sample_size', null, 'a number');
  const first = config.blockOutChannels[0]!;
  const mult = config.blockOutChannels.map((channels) => (channels % first === 0 ? channels / first : refuse('block_out_channels', config.blockOutChannels, 'multiples of the first')));
  const levels = mult.length;
  if (config.timeEmbeddingDim !== first * Math.max(...mult)) refuse('time_embedding_dim', config.timeEmbeddingDim, String(first * Math.max(...mult)));
  if (config.upBlocks.some((type, i) => type !== config.downBlocks[levels - 1 - i])) refuse('up_block_types', config.upBlocks, 'those of down_block_types, reversed');
  const efficient = config.resnetSkipTimeAct;
  if (config.timeEmbeddingActFn !== (efficient ? config.actFn : null)) refuse('time_embedding_act_fn', config.timeEmbeddingActFn, efficient ? config.actFn : 'null');
  const scaled = config.resnetOutScaleFactor !== 1;
  for (const field of ['resnetOutScaleFactor', 'midBlockScaleFactor'] as const) if (config[field] !== (scaled ? SKIP_SCALE : 1)) refuse(field, config[field], `1 or ${SKIP_SCALE}, for all blocks`);
  const upscales = config.classEmbedType !== null;
  if (upscales !== (config.inChannels === 6)) refuse('in_channels', config.inChannels, upscales ? '6 with a class embedding' : 'other than 6 without a class embedding');
  if (config.encoderHidDim === config.crossAttentionDim) refuse('encoder_hid_dim', config.encoderHidDim, 'another width than cross_attention_dim');

  // the original divides the picture's side by it and must get the level's rate back
  const resolution = (level: number): number => {
    const side = Math.floor(imageSize / 2 ** level);
    return Math.floor(imageSize / side) === 2 ** level ? side : refuse('sample_size', imageSize, 'a multiple of the downsampling rates');
  };
  const attended = mult.flatMap((_, level) => (config.downBlocks[level] === 'cross_attn' ? [level] : []));
  const disabled = attended.filter((level) => config.onlyCrossAttention[level]);
  // the mid block goes with the last level's resolution
  if (config.midBlockOnlyCrossAttention && !disabled.includes(levels - 1)) {
    if (attended.includes(levels - 1)) refuse('mid_block_only_cross_attention', true, 'the value of the last level');
    disabled.push(levels - 1);
  } else if (!config.midBlockOnlyCrossAttention && disabled.includes(levels - 1)) refuse('mid_block_only_cross_attention', false, 'the value of the last level');
  const depths = config.layersPerBlock;
  return stringify({
    params: {
      activation: config.actFn,
      att_pool_heads: config.additionEmbedTypeNumHeads,
      attention_resolutions: attended.map(resolution).join(','),
      channel_mult: mult.join(','),
      ...(disabled.length ? { disable_self_attentions: disabled.map(resolution).join(',') } : {}),
      dropout: 0,
      ...(efficient ? { efficient_activation: true } : {}),
      encoder_channels: config.crossAttentionDim,
      encoder_dim: config.encoderHidDim,
      image_size: imageSize,
      in_channels: config.inChannels,
      model_channels: first,
      num_head_channels: config.attentionHeadDim[0]!,
      num_res_blocks: depths.every((depth) => depth === depths[0]) ? depths[0]! : depths,
      out_channels: config.outChannels,
      resblock_updown: true,
      ...(scaled ? { scale_skip_connection: true } : {}),
      use_scale_shift_norm: true,
    },
  });
}
