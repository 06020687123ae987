import type { JsonObject } from './json.js';
import type { BlockType, UNetConfig } from './unet-config.js';

/** The diffusers release whose files are written: the one that the golden data was recorded with. */
export const DIFFUSERS_VERSION = '0.40.0.dev0';

const DOWN: Record<BlockType, string> = { resnet: 'ResnetDownsampleBlock2D', cross_attn: 'SimpleCrossAttnDownBlock2D' };
const UP: Record<BlockType, string> = { resnet: 'ResnetUpsampleBlock2D', cross_attn: 'SimpleCrossAttnUpBlock2D' };

/**
 * The `unet/config.json` that diffusers' save_pretrained writes for a network: every argument of
 * UNet2DConditionModel.__init__, keys in alphabetical order. The inverse of parseUNetConfig.
 */
export function unetConfigJson(config: UNetConfig): JsonObject {
  const levels = config.blockOutChannels.length;
  const allCross = config.onlyCrossAttention.every((only) => only === config.onlyCrossAttention[0]);
  const cross = allCross ? config.onlyCrossAttention[0]! : config.onlyCrossAttention;
  const midDefault = allCross ? config.onlyCrossAttention[0]! : false; // what the mid block gets when its field is null
  return {
    _class_name: 'UNet2DConditionModel',
    _diffusers_version: DIFFUSERS_VERSION,
    act_fn: config.actFn,
    addition_embed_type: 'text',
    addition_embed_type_num_heads: config.additionEmbedTypeNumHeads,
    addition_time_embed_dim: null,
    attention_head_dim: oneOrAll(config.attentionHeadDim, levels),
    attention_type: 'default',
    block_out_channels: config.blockOutChannels,
    center_input_sample: false,
    class_embed_type: config.classEmbedType,
    class_embeddings_concat: false,
    conv_in_kernel: 3,
    conv_out_kernel: 3,
    cross_attention_dim: config.crossAttentionDim,
    cross_attention_norm: config.crossAttentionNorm,
    down_block_types: config.downBlocks.map((type) => DOWN[type]),
    downsample_padding: 1,
    dropout: 0,
    dual_cross_attention: false,
    encoder_hid_dim: config.encoderHidDim,
    encoder_hid_dim_type: 'text_proj',
    flip_sin_to_cos: config.flipSinToCos,
    freq_shift: config.freqShift,
    in_channels: config.inChannels,
    layers_per_block: oneOrAll(config.layersPerBlock, levels),
    mid_block_only_cross_attention: config.midBlockOnlyCrossAttention === midDefault ? null : config.midBlockOnlyCrossAttention,
    mid_block_scale_factor: config.midBlockScaleFactor,
    mid_block_type: 'UNetMidBlock2DSimpleCrossAttn',
    norm_eps: config.normEps,
    norm_num_groups: config.normNumGroups,
    num_attention_heads: null,
    num_class_embeds: null,
    only_cross_attention: cross,
    out_channels: config.outChannels,
    projection_class_embeddings_input_dim: null,
    resnet_out_scale_factor: config.resnetOutScaleFactor,
    resnet_skip_time_act: config.resnetSkipTimeAct,
    resnet_time_scale_shift: config.resnetTimeScaleShift,
    reverse_transformer_layers_per_block: null,
    sample_size: config.sampleSize,
    time_cond_proj_dim: null,
    time_embedding_act_fn: config.timeEmbeddingActFn,
    time_embedding_dim: config.timeEmbeddingDim === 4 * config.blockOutChannels[0]! ? null : config.timeEmbeddingDim,
    time_embedding_type: 'positional',
    timestep_post_act: config.timestepPostAct,
    transformer_layers_per_block: 1,
    up_block_types: config.upBlocks.map((type) => UP[type]),
    upcast_attention: false,
    use_linear_projection: false,
  };
}

function oneOrAll(values: number[], levels: number): number | number[] {
  return values.length === levels && values.every((value) => value === values[0]) ? values[0]! : values;
}
