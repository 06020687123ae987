import { expect, test } from 'vitest';
import { parseT5Config } from '../../lib/models/config.js';
import { t5Arithmetic, T5Encoder, textDType } from '../../lib/models/t5-encoder.js';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { componentConfig } from '../../bench/configs.js';
import { expectIFError } from '../support/expect-error.js';

test('int8 is a matter of weights: the arithmetic is that of the networks', () => {
  expect(t5Arithmetic('int8', 'bf16')).toEqual({ dtype: 'bf16', int8Weights: true });
  expect(t5Arithmetic('int8', 'f32')).toEqual({ dtype: 'f32', int8Weights: true });
  expect(t5Arithmetic('f32', 'bf16')).toEqual({ dtype: 'f32', int8Weights: false });
  // float16 is for the networks that draw
  expect(t5Arithmetic('int8', 'f16')).toEqual({ dtype: 'bf16', int8Weights: true });
  expect((['f32', 'bf16', 'f16'] as const).map(textDType)).toEqual(['f32', 'bf16', 'bf16']);
});

test('the plan of T5-XXL: one byte per weight, a scale per output; embedding, norms and bias stay', async () => {
  const config = parseT5Config(await componentConfig('T5-XXL', 'text_encoder'), 'T5-XXL');
  const bf16 = await T5Encoder.plan(config, 'bf16', false, 2, 77);
  const int8 = await T5Encoder.plan(config, 'bf16', true, 2, 77);
  const { dModel, dFf, numHeads, dKv, numLayers } = config;
  const inner = numHeads * dKv;
  const weights = numLayers * (4 * dModel * inner + 3 * dModel * dFf);
  const outputs = numLayers * (3 * inner + dModel + 2 * dFf + dModel);
  expect(bf16.weightBytes - int8.weightBytes).toBe(weights - 4 * outputs);
  expect(int8).toMatchObject({ activationBytes: bf16.activationBytes, flops: bf16.flops });
});

test('another t5Dtype is refused', () =>
  expectIFError('INVALID_ARGUMENT', () => Cascade.load({ t5Dtype: 'fp8' as never }), 't5Dtype: expected f32, bf16 or int8, got "fp8"'));
