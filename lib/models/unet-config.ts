import { ConfigReader } from './config-reader.js';

export type Activation = 'silu' | 'gelu';

/** Residual blocks only, or residual blocks each followed by attention over [text tokens, image tokens]. */
export type BlockType = 'resnet' | 'cross_attn';

/**
 * A UNet2DConditionModel of the DeepFloyd IF family, every value explicit. Lists have one entry per level, in the order
 * of the down blocks (finest first), except `upBlocks`, which is in the order of the up blocks (coarsest first). Up block
 * i reads the entries of level `levels - 1 - i` of the other lists, and has `layersPerBlock + 1` residual blocks.
 */
export interface UNetConfig {
  /** Side of the training pictures in pixels; null when the file does not say. Any other size works as well. */
  sampleSize: number | null;
  /** 3, or 6 with the upsampled low-resolution picture (stage II, III). */
  inChannels: number;
  /** 3, or 6 with the predicted variance. */
  outChannels: number;
  blockOutChannels: number[];
  layersPerBlock: number[];
  downBlocks: BlockType[];
  upBlocks: BlockType[];
  midBlock: 'cross_attn';
  /** Width of the projected text that the attention blocks read. */
  crossAttentionDim: number;
  /** Width of one attention head; a level has channels / width heads. */
  attentionHeadDim: number[];
  /** Whether the attention of a level reads the text only, without the image's own keys and values. */
  onlyCrossAttention: boolean[];
  midBlockOnlyCrossAttention: boolean;
  /** Groups of all group norms but `norm_cross`, which always has 32. */
  normNumGroups: number;
  normEps: number;
  /** Activation of the residual blocks, the time embedding and the output. */
  actFn: Activation;
  timeEmbeddingDim: number;
  /** Applied once to the summed embedding. */
  timeEmbeddingActFn: Activation | null;
  /** Applied after the second linear layer of the time embedding. */
  timestepPostAct: Activation | null;
  flipSinToCos: boolean;
  freqShift: number;
  /** `timestep`: a second timestep embedding, of the noise level of the low-resolution picture. */
  classEmbedType: null | 'timestep';
  /** Heads of the attention pooling that adds the text to the time embedding. */
  additionEmbedTypeNumHeads: number;
  /** Width of the text encoder's output. */
  encoderHidDim: number;
  resnetTimeScaleShift: 'scale_shift';
  /** Whether a residual block leaves out the activation before its time projection. */
  resnetSkipTimeAct: boolean;
  resnetOutScaleFactor: number;
  midBlockScaleFactor: number;
  crossAttentionNorm: 'group_norm' | null;
}

// Limits far above every published network (IF-I-XL: 2816 channels, 4 blocks; IF-II-L: 5 blocks of up to 5 layers), so
// that a damaged file is refused here and not by an allocation.
const CHANNELS = { min: 1, max: 65536 };
const LAYERS = { min: 1, max: 64 };
const MAX_BLOCKS = 16;
const SCALE = { min: 1e-6, max: 1e6 };
const NORM_CROSS_GROUPS = 32; // diffusers attention_processor.py: cross_attention_norm_num_groups

const ACTIVATIONS = new Map<string | null, Activation>([['silu', 'silu'], ['swish', 'silu'], ['gelu', 'gelu']]);
const ACTIVATIONS_OR_NONE = new Map<string | null, Activation | null>([[null, null], ...ACTIVATIONS]);
const DOWN_BLOCKS = new Map<string | null, BlockType>([['ResnetDownsampleBlock2D', 'resnet'], ['SimpleCrossAttnDownBlock2D', 'cross_attn']]);
const UP_BLOCKS = new Map<string | null, BlockType>([['ResnetUpsampleBlock2D', 'resnet'], ['SimpleCrossAttnUpBlock2D', 'cross_attn']]);

// Fields of UNet2DConditionModel.__init__ that the IF blocks leave at their default: [key, default].
const DEFAULTS_ONLY: [string, unknown][] = [
  ['center_input_sample', false], ['downsample_padding', 1], ['dropout', 0], ['transformer_layers_per_block', 1],
  ['reverse_transformer_layers_per_block', null], ['num_attention_heads', null], ['dual_cross_attention', false],
  ['use_linear_projection', false], ['addition_time_embed_dim', null], ['num_class_embeds', null],
  ['upcast_attention', false], ['time_embedding_type', 'positional'], ['time_cond_proj_dim', null],
  ['conv_in_kernel', 3], ['conv_out_kernel', 3], ['projection_class_embeddings_input_dim', null],
  ['attention_type', 'default'], ['class_embeddings_concat', false],
];

/**
 * Reads a diffusers `unet/config.json`. Absent fields have the defaults of UNet2DConditionModel.__init__
 * (src/diffusers/models/unets/unet_2d_condition.py).
 * @param json the parsed file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT` for wrong types, sizes and lists that do not fit together; `UNSUPPORTED`, naming field,
 *   value and what is supported, for networks that this program does not implement
 */
export function parseUNetConfig(json: unknown, where: string): UNetConfig {
  const r = new ConfigReader(json, where);
  r.className('UNet2DConditionModel');

  const downBlocks = blockTypes(r, 'down_block_types', DOWN_BLOCKS, ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D']);
  const upBlocks = blockTypes(r, 'up_block_types', UP_BLOCKS, ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D']);
  const levels = downBlocks.length;
  r.sameLength('up_block_types', upBlocks, levels);
  const blockOutChannels = r.sameLength('block_out_channels', r.list('block_out_channels', r.raw('block_out_channels', [320, 640, 1280, 1280]),
    MAX_BLOCKS, (field, value) => r.checkNumber(field, value, CHANNELS, true)), levels);
  r.choice('mid_block_type', r.raw('mid_block_type', 'UNetMidBlock2DCrossAttn'), new Map([['UNetMidBlock2DSimpleCrossAttn', true]]));

  const { onlyCrossAttention, midBlockOnlyCrossAttention } = crossAttentionOnly(r, levels);
  const activation = (key: string) => r.choice(key, r.raw(key, null), ACTIVATIONS_OR_NONE);
  const config: UNetConfig = {
    sampleSize: sampleSize(r),
    inChannels: r.integer('in_channels', 4, CHANNELS),
    outChannels: r.integer('out_channels', 4, CHANNELS),
    blockOutChannels,
    layersPerBlock: r.integerPerBlock('layers_per_block', 2, levels, LAYERS),
    downBlocks,
    upBlocks,
    midBlock: 'cross_attn',
    crossAttentionDim: crossAttentionDim(r),
    attentionHeadDim: r.integerPerBlock('attention_head_dim', 8, levels, CHANNELS),
    onlyCrossAttention,
    midBlockOnlyCrossAttention,
    normNumGroups: r.integer('norm_num_groups', 32, CHANNELS),
    normEps: r.number('norm_eps', 1e-5, { min: 0, max: 1 }),
    actFn: r.choice('act_fn', r.raw('act_fn', 'silu'), ACTIVATIONS),
    timeEmbeddingDim: r.integerOrNull('time_embedding_dim', null, CHANNELS) ?? 4 * blockOutChannels[0]!,
    timeEmbeddingActFn: activation('time_embedding_act_fn'),
    timestepPostAct: activation('timestep_post_act'),
    flipSinToCos: r.boolean('flip_sin_to_cos', true),
    freqShift: r.number('freq_shift', 0, { min: 0, max: 1 }),
    classEmbedType: r.choice('class_embed_type', r.raw('class_embed_type', null), new Map([[null, null], ['timestep', 'timestep' as const]])),
    additionEmbedTypeNumHeads: r.integer('addition_embed_type_num_heads', 64, CHANNELS),
    encoderHidDim: encoderHidDim(r),
    resnetTimeScaleShift: r.choice('resnet_time_scale_shift', r.raw('resnet_time_scale_shift', 'default'), new Map([['scale_shift', 'scale_shift' as const]])),
    resnetSkipTimeAct: r.boolean('resnet_skip_time_act', false),
    resnetOutScaleFactor: r.number('resnet_out_scale_factor', 1, SCALE),
    midBlockScaleFactor: r.number('mid_block_scale_factor', 1, SCALE),
    crossAttentionNorm: r.choice('cross_attention_norm', r.raw('cross_attention_norm', null), new Map([[null, null], ['group_norm', 'group_norm' as const]])),
  };
  r.choice('addition_embed_type', r.raw('addition_embed_type', null), new Map([['text', true]]));
  for (const [key, value] of DEFAULTS_ONLY) r.only(key, value, value);
  r.refuseUnknown();
  checkWidths(r, config);
  return config;
}

function blockTypes(r: ConfigReader, key: string, table: ReadonlyMap<string | null, BlockType>, fallback: string[]): BlockType[] {
  return r.list(key, r.raw(key, fallback), MAX_BLOCKS, (field, value) => r.choice(field, value, table));
}

/** A number, null, or a pair of equal numbers. */
function sampleSize(r: ConfigReader): number | null {
  const value = r.raw('sample_size', null);
  if (value === null) return null;
  if (!Array.isArray(value)) return r.checkNumber('sample_size', value, CHANNELS, true);
  if (value.length !== 2 || value[0] !== value[1]) r.unsupported('sample_size', value, 'one number, or two equal ones');
  return r.checkNumber('sample_size[0]', value[0], CHANNELS, true);
}

function crossAttentionDim(r: ConfigReader): number {
  const value = r.raw('cross_attention_dim', 1280);
  if (Array.isArray(value)) r.unsupported('cross_attention_dim', value, 'one number for all blocks'); // encoder_hid_proj has one width
  return r.checkNumber('cross_attention_dim', value, CHANNELS, true);
}

/** `encoder_hid_dim`; its type defaults to text_proj (unet_2d_condition.py, _set_encoder_hid_proj). */
function encoderHidDim(r: ConfigReader): number {
  const value = r.raw('encoder_hid_dim', null);
  if (value === null) r.unsupported('encoder_hid_dim', value, 'the width of the text encoder');
  r.choice('encoder_hid_dim_type', r.raw('encoder_hid_dim_type', null), new Map([[null, true], ['text_proj', true]]));
  return r.checkNumber('encoder_hid_dim', value, CHANNELS, true);
}

/** A bool also sets the mid block's value, a list makes the mid block's false; the mid block's own field wins. */
function crossAttentionOnly(r: ConfigReader, levels: number): Pick<UNetConfig, 'onlyCrossAttention' | 'midBlockOnlyCrossAttention'> {
  const value = r.raw('only_cross_attention', false);
  const mid = r.raw('mid_block_only_cross_attention', null);
  if (mid !== null && typeof mid !== 'boolean') r.wrong('mid_block_only_cross_attention', 'true, false or null', mid);
  if (typeof value === 'boolean') {
    return { onlyCrossAttention: new Array<boolean>(levels).fill(value), midBlockOnlyCrossAttention: mid ?? value };
  }
  if (!Array.isArray(value)) r.wrong('only_cross_attention', 'true, false or a list of them', value);
  const list = r.list('only_cross_attention', value, levels, (field, entry) => {
    if (typeof entry !== 'boolean') r.wrong(field, 'true or false', entry);
    return entry;
  });
  return { onlyCrossAttention: r.sameLength('only_cross_attention', list, levels), midBlockOnlyCrossAttention: mid ?? false };
}

/** What has to divide what. */
function checkWidths(r: ConfigReader, c: UNetConfig): void {
  const divides = (field: string, width: number, by: number, what: string) => {
    if (width % by !== 0) r.wrong(field, `a multiple of ${what} ${by}`, width);
  };
  c.blockOutChannels.forEach((channels, i) => divides(`block_out_channels[${i}]`, channels, c.normNumGroups, 'norm_num_groups'));
  // diffusers reverses every per-block list for the up blocks but this one, so different widths would be ambiguous
  const width = c.attentionHeadDim[0]!;
  if (c.attentionHeadDim.some((other) => other !== width)) r.unsupported('attention_head_dim', c.attentionHeadDim, 'one width for all blocks');
  c.blockOutChannels.forEach((channels, i) => {
    const last = c.blockOutChannels.length - 1;
    const attends = c.downBlocks[i] === 'cross_attn' || c.upBlocks[last - i] === 'cross_attn' || i === last; // the mid block attends
    if (attends) divides(`block_out_channels[${i}]`, channels, width, 'attention_head_dim');
  });
  if (c.crossAttentionNorm) divides('cross_attention_dim', c.crossAttentionDim, NORM_CROSS_GROUPS, 'the groups of norm_cross,');
  divides('encoder_hid_dim', c.encoderHidDim, c.additionEmbedTypeNumHeads, 'addition_embed_type_num_heads');
  // get_timestep_embedding divides by half the width minus the shift
  if (!(Math.floor(c.blockOutChannels[0]! / 2) > c.freqShift)) r.wrong('block_out_channels[0]', 'more than 2 * freq_shift + 1', c.blockOutChannels[0]);
}
