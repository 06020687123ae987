// The UNet of models/if-emoji on real inputs: its own reference pictures, noised to several timesteps, and their prompts.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { addon, type DType, type Precision } from '../lib/addon.js';
import { UNet } from '../lib/models/unet.js';
import { Cascade } from '../lib/pipelines/cascade.js';
import { Tensor, type Images } from '../lib/tensor.js';
import { encodePrompts, PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { findWeights } from '../lib/weights/folder.js';
import { floats, golden, readSafetensors } from '../test/support/safetensors.js';

const device = 'cpu:0';
const dir = fileURLToPath(new URL('../models/if-emoji', import.meta.url));
const self = fileURLToPath(import.meta.url);

export interface Arithmetic { dtype: DType; precision: Precision }
/** What a forward pass reads: `images` and `text` have one item per entry of `timesteps`. */
export interface StepInputs { images: Images; timesteps: number[]; text: Float32Array; textWidth: number }

/** The first `prompts` prompts at every timestep of `timesteps`; noise from torch's generator with seed 0. */
export async function emojiInputs(prompts: number, timesteps: number[]): Promise<StepInputs> {
  const cascade = await Cascade.load({ stage1: dir });
  const stage = cascade.stages[0]!;
  const names = (JSON.parse(readFileSync(golden('if-emoji/reference_samples.json'), 'utf8')) as { prompts: string[] }).prompts.slice(0, prompts);
  const embeddings = await encodePrompts(names, cascade.textEncoder, { dtype: 'f32', device, cacheDir: null });
  const pictures = floats(readSafetensors(golden('if-emoji/reference_samples.safetensors')), 'grid24_seed0');
  const size = 3 * 64 * 64;
  const count = prompts * timesteps.length;
  const noise = await new Tensor(await addon.randn(addon.generatorCreate(0n), [count, 3, 64, 64], device)).toImages();
  const data = Float32Array.from(noise.data, (value, i) => {
    const item = Math.floor(i / size);
    const { sqrtAlpha, sqrtOneMinusAlpha } = stage.scheduler.addNoiseCoefficients(timesteps[Math.floor(item / prompts)]!);
    return sqrtAlpha * pictures[(item % prompts) * size + (i % size)]! + sqrtOneMinusAlpha * value;
  });
  return {
    images: { data, shape: [count, 3, 64, 64] },
    timesteps: timesteps.flatMap((t) => new Array<number>(prompts).fill(t)),
    text: Float32Array.from(timesteps.flatMap(() => embeddings.flatMap((embedding) => [...embedding]))),
    textWidth: cascade.textEncoder.config.dModel,
  };
}

/** The outputs of one evaluation, N × 6 × 64 × 64. */
export async function emojiOutputs(inputs: StepInputs, { dtype, precision }: Arithmetic): Promise<Float32Array> {
  const { stages } = await Cascade.load({ stage1: dir });
  const { files } = await findWeights(path.join(dir, 'unet'), 'unet');
  const unet = await UNet.load(stages[0]!.config, files, { dtype, precision, device });
  using x = await Tensor.fromImages(inputs.images, device);
  using text = Tensor.from(inputs.text, [inputs.timesteps.length, PROMPT_TOKENS, inputs.textWidth], device);
  const cond = await unet.prepare(text);
  using y = await unet.forward(x, inputs.timesteps, cond);
  const { data } = await y.toImages();
  addon.dispose(cond);
  unet.dispose();
  return data;
}

/** The same by the scalar kernels, whose sums are in double precision: float32 with direct convolutions, in a process of its own. */
export async function emojiReference(prompts: number, timesteps: number[]): Promise<Float32Array> {
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', self, String(prompts), timesteps.join()], {
    env: { ...process.env, IF_CPU_ISA: 'reference' }, encoding: 'buffer', maxBuffer: 2 ** 30,
  });
  return new Float32Array(Uint8Array.from(stdout).buffer);
}

if (process.argv[1] === self) {
  const inputs = await emojiInputs(Number(process.argv[2]), process.argv[3]!.split(',').map(Number));
  const outputs = await emojiOutputs(inputs, { dtype: 'f32', precision: 'exact' });
  process.stdout.write(Buffer.from(outputs.buffer));
}
