import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { parseUNetConfig, type UNetConfig } from '../../lib/models/unet-config.js';
import { unetConfigJson } from '../../lib/models/unet-config-json.js';
import { originalConfigYaml, parseOriginalConfig } from '../../lib/weights/original-config.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

const text = (stage: string): string => readFileSync(golden('original', stage, 'config.yml'), 'utf8');
const params = (stage = 'I'): Record<string, unknown> => (parse(text(stage)) as { params: Record<string, unknown> }).params;
const changed = (fields: Record<string, unknown>, stage = 'I'): string => stringify({ params: { ...params(stage), ...fields } });
const read = (fields: Record<string, unknown>, stage = 'I'): UNetConfig => parseOriginalConfig(changed(fields, stage), 'x.yml');

describe('diffusers config.json', () => {
  test.each([['tiny-if-I', 'unet'], ['tiny-if-II', 'unet'], ['unet_cross_only'], ['training', 'unet']])('written as diffusers writes it: %s/%s', (...parts) => {
    const recorded = JSON.parse(readFileSync(golden(...parts, 'config.json'), 'utf8')) as object;
    const written = unetConfigJson(parseUNetConfig(recorded, 'x'));
    expect(written).toEqual(recorded);
    expect(Object.keys(written)).toEqual(Object.keys(recorded)); // the order as well
  });
  test('per-level lists, and a mid block of its own', () => {
    const recorded = JSON.parse(readFileSync(golden('tiny-if-I', 'unet', 'config.json'), 'utf8')) as object;
    for (const fields of [{ only_cross_attention: [true, false, true] }, { only_cross_attention: [true, false, true], mid_block_only_cross_attention: true }, { only_cross_attention: true, mid_block_only_cross_attention: false }, { time_embedding_dim: 96 }, { layers_per_block: [1, 2, 3] }]) {
      expect(unetConfigJson(parseUNetConfig({ ...recorded, ...fields }, 'x'))).toEqual({ ...recorded, ...fields });
    }
  });
});

describe('config.yml', () => {
  test.each(['I', 'II'])('%s: to a UNetConfig and back gives the same fields', (stage) => {
    const config = parseOriginalConfig(text(stage), stage);
    expect(parse(originalConfigYaml(config, stage))).toEqual(parse(text(stage)));
    expect(parseUNetConfig(unetConfigJson(config), stage)).toEqual(config);
  });

  test('what the fields mean', () => {
    expect(parseOriginalConfig(text('II'), 'II')).toMatchObject({
      sampleSize: 64, inChannels: 6, blockOutChannels: [32, 32], layersPerBlock: [1, 2], downBlocks: ['resnet', 'cross_attn'], upBlocks: ['cross_attn', 'resnet'],
      onlyCrossAttention: [true, true], midBlockOnlyCrossAttention: true, timeEmbeddingDim: 32, timeEmbeddingActFn: 'gelu', classEmbedType: 'timestep',
      resnetSkipTimeAct: true, resnetOutScaleFactor: 1 / 0.7071, midBlockScaleFactor: 1 / 0.7071, additionEmbedTypeNumHeads: 4, encoderHidDim: 64, crossAttentionDim: 32,
    });
    // the published stage I: 64 px, levels 1,2,3,4, attention at 32, 16 and 8
    const published = read({ image_size: 64, model_channels: 704, channel_mult: '1,2,3,4', num_res_blocks: 3, attention_resolutions: '32,16,8', encoder_dim: 4096, encoder_channels: 2816, att_pool_heads: 64, num_head_channels: 64, precision: '16', dropout: 0.1 });
    expect(published).toMatchObject({ blockOutChannels: [704, 1408, 2112, 2816], downBlocks: ['resnet', 'cross_attn', 'cross_attn', 'cross_attn'], timeEmbeddingDim: 2816, onlyCrossAttention: [false, false, false, false], midBlockOnlyCrossAttention: false });
    expect(unetConfigJson(published)).toMatchObject({ time_embedding_dim: null, only_cross_attention: false, layers_per_block: 3, attention_head_dim: 64 });
    expect(read({ channel_mult: [1, 2], num_res_blocks: [2, 1], attention_resolutions: [1, 2] })).toMatchObject({ blockOutChannels: [32, 64], layersPerBlock: [2, 1], downBlocks: ['cross_attn', 'cross_attn'] });
  });

  test('self-attention that is switched off by level', () => {
    const both = { attention_resolutions: '32,16' };
    expect(read({ ...both, disable_self_attentions: '32' })).toMatchObject({ onlyCrossAttention: [true, false], midBlockOnlyCrossAttention: false });
    expect(read({ ...both, disable_self_attentions: '32,16' })).toMatchObject({ onlyCrossAttention: [true, true], midBlockOnlyCrossAttention: true });
    expect(read({ attention_resolutions: [1, 2], disable_self_attentions: true })).toMatchObject({ onlyCrossAttention: [true, true] });
    // compared with the letters of '32,16' in the original code, so nothing is switched off
    expect(read({ ...both, disable_self_attentions: true })).toMatchObject({ onlyCrossAttention: [false, false], midBlockOnlyCrossAttention: false });
    for (const off of [false, 0, null, '']) expect(read({ ...both, disable_self_attentions: off })).toMatchObject({ onlyCrossAttention: [false, false] });
    const config = read({ ...both, disable_self_attentions: '32' });
    expect(parse(originalConfigYaml(config, 'x'))).toMatchObject({ params: { disable_self_attentions: '32', attention_resolutions: '32,16' } });
  });

  test.each<[string, Record<string, unknown>, 'FILE_FORMAT' | 'UNSUPPORTED', string]>([
    ['a missing field', { model_channels: undefined }, 'FILE_FORMAT', 'model_channels'],
    ['a text for a number', { image_size: 'large' }, 'FILE_FORMAT', 'image_size'],
    ['channel_mult', { channel_mult: '1,x' }, 'FILE_FORMAT', 'channel_mult[1]'],
    ['channel_mult that begins with 2', { channel_mult: '2,4' }, 'UNSUPPORTED', 'channel_mult'],
    ['a resolution of zero', { attention_resolutions: '0' }, 'FILE_FORMAT', 'attention_resolutions'],
    ['the tanh form of GELU', { activation: 'gelu_jit' }, 'UNSUPPORTED', 'activation "gelu_jit"'],
    ['heads by number', { num_head_channels: -1 }, 'UNSUPPORTED', 'num_head_channels'],
    ['no text projection', { encoder_channels: 64 }, 'UNSUPPORTED', 'encoder_channels'],
    ['no scale and shift', { use_scale_shift_norm: false }, 'UNSUPPORTED', 'use_scale_shift_norm'],
    ['convolutions for resampling', { resblock_updown: false }, 'UNSUPPORTED', 'resblock_updown'],
    ['classes', { num_classes: 1000 }, 'UNSUPPORTED', 'num_classes'],
    ['an unknown field', { use_spatial_transformer: true }, 'UNSUPPORTED', 'use_spatial_transformer'],
    ['too many levels', { channel_mult: Array.from({ length: 17 }, () => 1) }, 'FILE_FORMAT', 'channel_mult'],
    ['depths for another number of levels', { num_res_blocks: [1, 2, 3] }, 'FILE_FORMAT', 'num_res_blocks'],
  ])('refused: %s', (_, fields, code, part) => expectIFError(code, () => read(fields), 'x.yml', part));

  test('files that are no config.yml', async () => {
    await expectIFError('FILE_FORMAT', () => parseOriginalConfig('params: [1, 2', 'x'), 'not valid YAML');
    await expectIFError('FILE_FORMAT', () => parseOriginalConfig('model: {}', 'x'), 'params');
    await expectIFError('FILE_FORMAT', () => parseOriginalConfig('just text', 'x'), 'params');
    await expectIFError('FILE_FORMAT', () => parseOriginalConfig('a: &a [x]\nparams: {b: *a}', 'x'), 'not valid YAML'); // aliases, as of an entity bomb
    await expectIFError('FILE_FORMAT', () => parseOriginalConfig(' '.repeat(200_000), 'x'), '200000 characters');
  });
});

describe('networks that the original code cannot express', () => {
  const config = parseOriginalConfig(text('I'), 'I');
  test.each<[string, Partial<UNetConfig>, string]>([
    ['norm groups', { normNumGroups: 8 }, 'norm_num_groups 8'],
    ['no size', { sampleSize: null }, 'sample_size'],
    ['widths that are no multiples', { blockOutChannels: [32, 48] }, 'block_out_channels'],
    ['a time embedding of its own width', { timeEmbeddingDim: 128 }, 'time_embedding_dim 128'],
    ['an up path of its own', { upBlocks: ['resnet', 'resnet'] }, 'up_block_types'],
    ['one activation only', { timeEmbeddingActFn: 'gelu' }, 'time_embedding_act_fn'],
    ['a skip scale of its own', { resnetOutScaleFactor: 2, midBlockScaleFactor: 2 }, 'resnet_out_scale_factor 2'],
    ['a mid block scaled alone', { midBlockScaleFactor: 1 / 0.7071 }, 'mid_block_scale_factor'],
    ['a class embedding in stage I', { classEmbedType: 'timestep' }, 'in_channels'],
    ['a mid block without self-attention', { midBlockOnlyCrossAttention: true }, 'mid_block_only_cross_attention'],
    ['a mid block with self-attention', { onlyCrossAttention: [true, true] }, 'mid_block_only_cross_attention'],
    ['a size that the rates do not divide', { sampleSize: 1 }, 'sample_size'],
  ])('%s', (_, fields, part) => expectIFError('UNSUPPORTED', () => originalConfigYaml({ ...config, ...fields }, 'here'), 'here: ', part, 'no counterpart'));
});
