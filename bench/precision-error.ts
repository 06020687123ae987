// What the forms of the convolutions cost in accuracy: relative L2 error of the trained UNet of models/if-emoji, noise and
// variance together, against float32 with sums in double precision, per timestep. `npm run bench:precision-error`
// (--prompts N: pictures per timestep; --save FILE.safetensors: inputs and reference for peer/precision_error.py).
import { parseArgs } from 'node:util';
import { addon, PRECISIONS } from '../lib/addon.js';
import { Tensor } from '../lib/tensor.js';
import { PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { relativeError } from '../test/support/compare.js';
import { emojiInputs, emojiOutputs, emojiReference } from './emoji-steps.js';

const TIMESTEPS = [999, 800, 500, 200, 10];

const { values } = parseArgs({ options: { prompts: { type: 'string', default: '4' }, save: { type: 'string' } } });
const prompts = Number(values.prompts);
if (!(Number.isInteger(prompts) && prompts >= 1 && prompts <= 24)) {
  console.error(`precision-error: --prompts: expected 1 to 24, got "${values.prompts}"`);
  process.exit(2);
}
const inputs = await emojiInputs(prompts, TIMESTEPS);
const reference = await emojiReference(prompts, TIMESTEPS);
if (values.save) {
  const { images, timesteps, text, textWidth } = inputs;
  const tensors = [
    Tensor.from(images.data, images.shape, 'cpu:0'), Tensor.from(Float32Array.from(timesteps), [timesteps.length], 'cpu:0'),
    Tensor.from(text, [timesteps.length, PROMPT_TOKENS, textWidth], 'cpu:0'), Tensor.from(reference, [timesteps.length, 6, 64, 64], 'cpu:0'),
  ];
  await addon.safetensorsSave(values.save, ['sample', 'timestep', 'encoder_hidden_states', 'reference'], tensors.map((tensor) => tensor.handle), 'f32', []);
}
const row = (name: string, cells: string[]): void => console.log(name.padEnd(14) + cells.map((cell) => cell.padStart(10)).join(''));
row('', ['all', ...TIMESTEPS.map((t) => `t=${t}`)]);
for (const dtype of ['f32', 'bf16'] as const) {
  for (const precision of PRECISIONS) {
    if (dtype === 'f32' && precision === 'fast') continue; // the same as default
    const outputs = await emojiOutputs(inputs, { dtype, precision });
    const size = outputs.length / TIMESTEPS.length;
    const part = (all: Float32Array, i: number): Float32Array => all.subarray(i * size, (i + 1) * size);
    const errors = [relativeError(outputs, reference), ...TIMESTEPS.map((_, i) => relativeError(part(outputs, i), part(reference, i)))];
    row(`${dtype} ${precision}`, errors.map((error) => error.toExponential(2)));
  }
}
