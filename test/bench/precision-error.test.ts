// Whole-network errors on trained weights: the UNet of models/if-emoji on noised pictures with their prompts.
import { expect, test } from 'vitest';
import type { DType, Precision } from '../../lib/addon.js';
import { emojiInputs, emojiOutputs, emojiReference } from '../../bench/emoji-steps.js';
import { relativeError } from '../support/compare.js';

const TIMESTEPS = [999, 500, 10];
const PROMPTS = 2;
// Errors of torch 2.13 and diffusers in bfloat16 on these inputs, by bench/peer/precision_error.py: of all outputs together
// and per timestep.
const TORCH_BF16 = [2.34e-2, 5.17e-3, 5.51e-3, 4.39e-2];

test('float32 within 1e-5 (exact) and 2e-5 (default), bfloat16 within 1.25 times the error of torch', async () => {
  const inputs = await emojiInputs(PROMPTS, TIMESTEPS);
  const reference = await emojiReference(PROMPTS, TIMESTEPS);
  const errors = async (dtype: DType, precision: Precision): Promise<number[]> => {
    const outputs = await emojiOutputs(inputs, { dtype, precision });
    const size = outputs.length / TIMESTEPS.length;
    return [relativeError(outputs, reference), ...TIMESTEPS.map((_, i) => relativeError(outputs.subarray(i * size, (i + 1) * size), reference.subarray(i * size, (i + 1) * size)))];
  };
  for (const error of await errors('f32', 'exact')) expect(error).toBeLessThanOrEqual(1e-5);
  for (const error of await errors('f32', 'default')) expect(error).toBeLessThanOrEqual(2e-5);
  for (const precision of ['exact', 'default'] as const) {
    for (const [i, error] of (await errors('bf16', precision)).entries()) expect(error).toBeLessThanOrEqual(1.25 * TORCH_BF16[i]!);
  }
});
