import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { ErrorCode } from '../../lib/errors.js';
import { parseDDPMConfig, parseModelIndex, parseT5Config, parseUNetConfig } from '../../lib/models/config.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

const load = (...parts: string[]) => JSON.parse(readFileSync(golden(...parts), 'utf8')) as Record<string, unknown>;
const stageI = load('tiny-if-I', 'unet', 'config.json');
const stageII = load('tiny-if-II', 'unet', 'config.json');

describe('unet/config.json', () => {
  test('tiny stage I', () => {
    expect(parseUNetConfig(stageI, 'unet')).toEqual({
      sampleSize: 32, inChannels: 3, outChannels: 6, blockOutChannels: [32, 32, 64], layersPerBlock: [1, 1, 1],
      downBlocks: ['resnet', 'cross_attn', 'cross_attn'], upBlocks: ['cross_attn', 'cross_attn', 'resnet'],
      midBlock: 'cross_attn', crossAttentionDim: 64, attentionHeadDim: [16, 16, 16],
      onlyCrossAttention: [false, false, false], midBlockOnlyCrossAttention: false, normNumGroups: 32, normEps: 1e-5,
      actFn: 'gelu', timeEmbeddingDim: 128, timeEmbeddingActFn: null, timestepPostAct: null, flipSinToCos: true,
      freqShift: 0, classEmbedType: null, additionEmbedTypeNumHeads: 4, encoderHidDim: 64,
      resnetTimeScaleShift: 'scale_shift', resnetSkipTimeAct: false, resnetOutScaleFactor: 1, midBlockScaleFactor: 1,
      crossAttentionNorm: 'group_norm',
    });
  });

  test('tiny stage II', () => {
    expect(parseUNetConfig(stageII, 'unet')).toMatchObject({
      inChannels: 6, layersPerBlock: [1, 2, 1], timeEmbeddingDim: 64, timeEmbeddingActFn: 'gelu', classEmbedType: 'timestep',
      resnetSkipTimeAct: true, resnetOutScaleFactor: 1.4142271248762552, midBlockScaleFactor: 1.4142271248762552,
    });
  });

  test('only_cross_attention: a bool passes to the mid block, a list does not, the own field wins', () => {
    const bool = load('unet_cross_only', 'config.json');
    const list = load('wide.json').config as Record<string, unknown>;
    expect(parseUNetConfig(bool, 'u')).toMatchObject({ onlyCrossAttention: [true, true], midBlockOnlyCrossAttention: true });
    expect(parseUNetConfig(list, 'u')).toMatchObject({ onlyCrossAttention: [true, false], midBlockOnlyCrossAttention: false });
    expect(parseUNetConfig({ ...bool, mid_block_only_cross_attention: false }, 'u').midBlockOnlyCrossAttention).toBe(false);
    expect(parseUNetConfig({ ...list, mid_block_only_cross_attention: true }, 'u').midBlockOnlyCrossAttention).toBe(true);
  });

  test('absent fields take the defaults of diffusers', () => {
    const parsed = parseUNetConfig(load('wide.json').config, 'u'); // written with the fields that differ only
    expect(parsed).toMatchObject({ normNumGroups: 32, flipSinToCos: true, freqShift: 0, timeEmbeddingDim: 4 * 192, normEps: 1e-5 });
  });

  test('the embedded model and the trained one', () => {
    const emoji = JSON.parse(readFileSync(path.join(golden(), '..', '..', 'models', 'if-emoji', 'unet', 'config.json'), 'utf8'));
    expect(parseUNetConfig(emoji, 'u')).toMatchObject({ blockOutChannels: expect.any(Array), actFn: 'gelu' });
    expect(parseUNetConfig(load('training', 'unet', 'config.json'), 'u').normNumGroups).toBe(8);
  });

  test('swish is silu; a pair of equal sample sizes is one size', () => {
    expect(parseUNetConfig({ ...stageI, act_fn: 'swish', sample_size: [48, 48] }, 'u')).toMatchObject({ actFn: 'silu', sampleSize: 48 });
  });

  test('what is not known is ignored only when it is off', async () => {
    expect(parseUNetConfig({ ...stageI, _note: 'x', some_feature: null, other_feature: false }, 'u')).toEqual(parseUNetConfig(stageI, 'u'));
    await expectIFError('UNSUPPORTED', () => parseUNetConfig({ ...stageI, norm_num_group: 16 }, 'u'), 'norm_num_group', 'did you mean "norm_num_groups"');
  });

  test.each<[string, ErrorCode, Record<string, unknown>, string[]]>([
    ['block of another family', 'UNSUPPORTED', { down_block_types: ['ResnetDownsampleBlock2D', 'CrossAttnDownBlock2D', 'SimpleCrossAttnDownBlock2D'] },
      ['unet/config.json: down_block_types[1] "CrossAttnDownBlock2D" is not supported (supported: ResnetDownsampleBlock2D, SimpleCrossAttnDownBlock2D)']],
    ['other class', 'UNSUPPORTED', { _class_name: 'UNet2DModel' }, ['_class_name "UNet2DModel"', 'UNet2DConditionModel']],
    ['other mid block', 'UNSUPPORTED', { mid_block_type: 'UNetMidBlock2D' }, ['mid_block_type', 'UNetMidBlock2DSimpleCrossAttn']],
    ['default time shift', 'UNSUPPORTED', { resnet_time_scale_shift: 'default' }, ['resnet_time_scale_shift "default"', 'scale_shift']],
    ['mish', 'UNSUPPORTED', { act_fn: 'mish' }, ['act_fn "mish"', 'silu, swish, gelu']],
    ['layer_norm', 'UNSUPPORTED', { cross_attention_norm: 'layer_norm' }, ['cross_attention_norm']],
    ['no text projection', 'UNSUPPORTED', { encoder_hid_dim: null }, ['encoder_hid_dim null']],
    ['image projection', 'UNSUPPORTED', { encoder_hid_dim_type: 'image_proj' }, ['encoder_hid_dim_type', 'text_proj']],
    ['no pooled text', 'UNSUPPORTED', { addition_embed_type: null }, ['addition_embed_type null']],
    ['fourier', 'UNSUPPORTED', { time_embedding_type: 'fourier' }, ['time_embedding_type', '"positional"']],
    ['several text widths', 'UNSUPPORTED', { cross_attention_dim: [64, 64, 64] }, ['cross_attention_dim']],
    ['several head widths', 'UNSUPPORTED', { attention_head_dim: [16, 16, 32] }, ['attention_head_dim']],
    ['dropout', 'UNSUPPORTED', { dropout: 0.1 }, ['dropout 0.1']],
    ['string for a number', 'FILE_FORMAT', { in_channels: '3' }, ['in_channels', 'whole number', '"3"']],
    ['fraction', 'FILE_FORMAT', { out_channels: 6.5 }, ['out_channels', '6.5']],
    ['absurd size', 'FILE_FORMAT', { block_out_channels: [32, 32, 1e9] }, ['block_out_channels[2]', '1000000000']],
    ['negative', 'FILE_FORMAT', { layers_per_block: -1 }, ['layers_per_block', '-1']],
    ['lists of different lengths', 'FILE_FORMAT', { block_out_channels: [32, 32] }, ['block_out_channels', '3 items', '2 items']],
    ['fewer up blocks', 'FILE_FORMAT', { up_block_types: ['ResnetUpsampleBlock2D'] }, ['up_block_types', '3 items']],
    ['groups', 'FILE_FORMAT', { block_out_channels: [32, 48, 64] }, ['block_out_channels[1]', 'multiple of norm_num_groups 32', '48']],
    ['head width', 'FILE_FORMAT', { attention_head_dim: 24 }, ['block_out_channels[1]', 'attention_head_dim 24']],
    ['pooling heads', 'FILE_FORMAT', { addition_embed_type_num_heads: 5 }, ['encoder_hid_dim', '5']],
    ['norm_cross groups', 'FILE_FORMAT', { cross_attention_dim: 80 }, ['cross_attention_dim', '32']],
    ['null groups', 'FILE_FORMAT', { norm_num_groups: null }, ['norm_num_groups', 'null']],
    ['bool list of strings', 'FILE_FORMAT', { only_cross_attention: ['yes', 'no', 'no'] }, ['only_cross_attention[0]']],
    ['empty list', 'FILE_FORMAT', { down_block_types: [] }, ['down_block_types']],
  ])('refuses: %s', (_, code, change, parts) =>
    expectIFError(code, () => parseUNetConfig({ ...stageI, ...change }, 'unet/config.json'), 'unet/config.json', ...parts));

  test('refuses what is no object', async () => {
    for (const json of [null, [], 'x', 3]) await expectIFError('FILE_FORMAT', () => parseUNetConfig(json, 'u'), 'JSON object');
  });
});

describe('text_encoder/config.json', () => {
  const tiny = load('tiny-if-I', 'text_encoder', 'config.json');
  test('tiny encoder', () => {
    expect(parseT5Config(tiny, 't5')).toEqual({
      vocabSize: 2048, dModel: 64, dKv: 16, dFf: 96, numLayers: 3, numHeads: 6, relativeAttentionNumBuckets: 32,
      relativeAttentionMaxDistance: 128, layerNormEpsilon: 1e-6, feedForwardProj: 'gated-gelu',
    });
  });
  test.each<[ErrorCode, Record<string, unknown>, string]>([
    ['UNSUPPORTED', { feed_forward_proj: 'relu' }, 'feed_forward_proj "relu"'],
    ['UNSUPPORTED', { feed_forward_proj: undefined }, 'feed_forward_proj'],
    ['UNSUPPORTED', { model_type: 'umt5' }, 'model_type "umt5"'],
    ['UNSUPPORTED', { dense_act_fn: 'silu' }, 'dense_act_fn'],
    ['UNSUPPORTED', { quantization_config: { bits: 8 } }, 'quantization_config'],
    ['FILE_FORMAT', { d_model: '64' }, 'd_model'],
    ['FILE_FORMAT', { num_layers: 1e9 }, 'num_layers'],
    ['FILE_FORMAT', { relative_attention_num_buckets: 33 }, 'multiple of 4'],
    ['FILE_FORMAT', { relative_attention_max_distance: 8 }, 'relative_attention_max_distance'],
  ])('refuses with %s: %o', (code, change, part) => {
    const json = Object.fromEntries(Object.entries({ ...tiny, ...change }).filter(([, value]) => value !== undefined));
    return expectIFError(code, () => parseT5Config(json, 't5'), 't5: ', part);
  });
});

describe('scheduler_config.json', () => {
  const tiny = load('tiny-if-I', 'scheduler', 'scheduler_config.json');
  test('tiny scheduler, solver fields of the published files ignored', () => {
    expect(parseDDPMConfig({ ...tiny, algorithm_type: 'dpmsolver++', lambda_min_clipped: -5.1 }, 's')).toEqual({
      numTrainTimesteps: 1000, betaStart: 0.0001, betaEnd: 0.02, betaSchedule: 'squaredcos_cap_v2', varianceType: 'learned_range',
      predictionType: 'epsilon', clipSample: true, clipSampleRange: 1, thresholding: true, dynamicThresholdingRatio: 0.95,
      sampleMaxValue: 1.5, timestepSpacing: 'leading', stepsOffset: 0,
    });
  });
  test.each<[ErrorCode, Record<string, unknown>, string]>([
    ['UNSUPPORTED', { _class_name: 'DPMSolverMultistepScheduler' }, '"DPMSolverMultistepScheduler" is not supported (supported: DDPMScheduler)'],
    ['UNSUPPORTED', { _class_name: 'DDIMScheduler' }, 'DDIMScheduler'],
    ['UNSUPPORTED', { trained_betas: [0.1] }, 'trained_betas'],
    ['UNSUPPORTED', { variance_type: 'free' }, 'variance_type "free"'],
    ['UNSUPPORTED', { prediction_type: 'flow' }, 'prediction_type "flow"'],
    ['UNSUPPORTED', { beta_schedule: 'sigmoid' }, 'beta_schedule "sigmoid"'],
    ['UNSUPPORTED', { timestep_spacing: 'karras' }, 'timestep_spacing'],
    ['UNSUPPORTED', { rescale_betas_zero_snr: true }, 'rescale_betas_zero_snr true'],
    ['FILE_FORMAT', { dynamic_thresholding_ratio: 1.5 }, 'dynamic_thresholding_ratio'],
    ['FILE_FORMAT', { num_train_timesteps: 0 }, 'num_train_timesteps'],
  ])('refuses with %s: %o', (code, change, part) => expectIFError(code, () => parseDDPMConfig({ ...tiny, ...change }, 's'), 's: ', part));
});

test('model_index.json', async () => {
  const index = parseModelIndex(load('tiny-if-II', 'model_index.json'), 'm');
  expect(index.kind).toBe('super_resolution');
  expect([...index.components.keys()].sort()).toEqual(['image_noising_scheduler', 'scheduler', 'text_encoder', 'tokenizer', 'unet']);
  await expectIFError('UNSUPPORTED', () => parseModelIndex({ _class_name: 'StableDiffusionPipeline' }, 'm'), 'StableDiffusionPipeline', 'IFPipeline');
  await expectIFError('FILE_FORMAT', () => parseModelIndex({}, 'm'), '_class_name');
});
