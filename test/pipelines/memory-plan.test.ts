// The plan against what the published sizes say, against what a run really takes, and the refusal before anything is loaded.
import { expect, test } from 'vitest';
import { componentConfig } from '../../bench/configs.js';
import { addon, type SampleDType } from '../../lib/addon.js';
import { parseT5Config, parseUNetConfig } from '../../lib/models/config.js';
import { T5Encoder } from '../../lib/models/t5-encoder.js';
import { UNet } from '../../lib/models/unet.js';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { checkPlan, type CascadePlan } from '../../lib/pipelines/memory-plan.js';
import { Stage } from '../../lib/pipelines/stage.js';
import { Tensor, type Images } from '../../lib/tensor.js';
import { PROMPT_TOKENS } from '../../lib/text/prompt-embeddings.js';
import { expectIFError } from '../support/expect-error.js';
import { golden, readSafetensors } from '../support/safetensors.js';

const GB = 1e9;
const plan: CascadePlan = [
  { component: 'text_encoder', weightBytes: 9.5 * GB, activationBytes: 0.02 * GB },
  { component: 'stage1', weightBytes: 8.6 * GB, activationBytes: 2 * GB },
];

test('refused when the largest component does not fit, accepted when it does', async () => {
  // 8.6 GB + 2 GB with a fifth more + 0.3 GB
  expect(() => checkPlan(plan, 'bf16', 'bf16', 11.3 * GB + 1e6)).not.toThrow();
  await expectIFError('OUT_OF_MEMORY', () => checkPlan(plan, 'bf16', 'bf16', 11.3 * GB - 1e6), 'stage1 needs 11.3 GB', 'weights 8.6 GB', 'activations 2.0 GB in bf16', 'fewer pictures or a smaller size');
  await expectIFError('OUT_OF_MEMORY', () => checkPlan(plan, 'f32', 'f32', 1 * GB), 'text_encoder needs 9.8 GB', '1.0 GB are available', 'use --t5-dtype bf16 or int8');
  await expectIFError('OUT_OF_MEMORY', () => checkPlan(plan, 'bf16', 'bf16', NaN), 'text_encoder');
});

test('a cascade that cannot fit is refused before anything is loaded', async () => {
  const cascade = await Cascade.load({ stage1: golden('tiny-if-I'), dtype: 'f32', cacheDir: null });
  const events: string[] = [];
  const run = (): Promise<unknown> => cascade.generate({ prompt: 'x', numImages: 1024, height: 8192, width: 8192, onProgress: (event) => events.push(event.type) });
  await expectIFError('OUT_OF_MEMORY', run, /stage1 needs .* GB/);
  expect(events).toEqual([]);
});

test('the plan of a step is what its tensors take', async () => {
  const device = 'cpu:5'; // an accounting of its own; exact: without the scratch of Winograd convolutions, which is no tensor
  const stage = await Stage.open(golden('tiny-if-II'));
  const [batch, size, tokens, width] = [2, 128, PROMPT_TOKENS, stage.config.encoderHidDim];
  const planned = await stage.plan('f32', batch, size, size, tokens, true, 'exact');
  const text = Tensor.from(new Float32Array(batch * tokens * width), [batch, tokens, width], device);
  const lowRes = { data: new Float32Array(batch * 3 * 32 * 32), shape: [batch, 3, 32, 32] as Images['shape'] };
  await stage.sample({
    text, negativeText: text, batch, height: size, width: size, lowRes, generator: addon.generatorCreate(0n),
    settings: { timesteps: 2, guidance: 4, noiseLevel: 250 }, dtype: 'f32', precision: 'exact', device, index: 2,
  });
  const { peak, cached } = addon.memory(device);
  const bytes = planned.weightBytes + planned.activationBytes;
  const { size: parameters } = readSafetensors(golden('tiny-if-II', 'unet', 'diffusion_pytorch_model.safetensors'));
  expect(peak).toBeGreaterThanOrEqual(bytes);
  expect(peak).toBeLessThanOrEqual(bytes + 4096 * (parameters + 64)); // blocks are whole pages; 64 tensors live in a step
  text.dispose();
  expect([addon.memory(device).current, cached]).toEqual([0, 0]); // all is given back at the end of a stage
});

test('T5-XXL, IF-I-XL and IF-II-L sample on a GPU of 16 GB, says the plan', async () => {
  const unet = async (name: string, size: number, dtype: SampleDType = 'bf16'): Promise<CascadePlan[number]> => ({ component: name, ...await UNet.plan(parseUNetConfig(await componentConfig(name, 'unet'), name), dtype, 1, size, size, PROMPT_TOKENS, true, 'default', 'cuda:0') });
  const t5 = await T5Encoder.plan(parseT5Config(await componentConfig('T5-XXL', 'text_encoder'), 'T5-XXL'), 'bf16', false, 2, PROMPT_TOKENS, 'cuda:0');
  const plan = [{ component: 'text_encoder', ...t5 }, await unet('IF-I-XL', 64), await unet('IF-II-L', 256)];
  expect(() => checkPlan(plan, 'bf16', 'bf16', 16e9)).not.toThrow();
  // 4.305 billion parameters of 2 bytes; only the inputs of the first convolution are padded
  expect(plan[1]!.weightBytes / (2 * 4.3047e9)).toBeCloseTo(1, 2);
  await expectIFError('OUT_OF_MEMORY', () => checkPlan(plan, 'bf16', 'bf16', 8e9), /text_encoder needs/);
  expect(await unet('IF-II-L', 256, 'f16')).toEqual(plan[2]);
});
