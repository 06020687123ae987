// What int8 weights cost the text encoder: relative L2 error of its output against float32, beside that of bf16.
// `npm run bench:t5-int8-error` (--layers N: of the T5-XXL widths with random weights; 0 leaves them out).
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addon, type DType } from '../lib/addon.js';
import { parseT5Config, readJson } from '../lib/models/config.js';
import { T5Encoder } from '../lib/models/t5-encoder.js';
import { Cascade } from '../lib/pipelines/cascade.js';
import { encodePrompts, PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { relativeError } from '../test/support/compare.js';
import { golden, readSafetensors } from '../test/support/safetensors.js';
import { componentConfig } from './configs.js';

const device = 'cpu:0';
const { values } = parseArgs({ options: { layers: { type: 'string', default: '4' } } });
const layers = Number(values.layers);
if (!(Number.isInteger(layers) && layers >= 0 && layers <= 24)) {
  console.error(`t5-int8-error: --layers: expected 0 to 24, got "${values.layers}"`);
  process.exit(2);
}

type Arithmetic = { dtype: DType; int8Weights: boolean };
type Encode = (arithmetic: Arithmetic) => Promise<Float32Array>;

async function forward(t5: T5Encoder, ids: Int32Array, mask: Int32Array, batch: number): Promise<Float32Array> {
  using hidden = await t5.forward(ids, mask, batch);
  const result = await hidden.toFloat32();
  t5.dispose();
  addon.releaseCached(device);
  return result;
}

/** The recorded ids of the tiny encoder of the tests. */
const tiny: Encode = async (arithmetic) => {
  const dir = golden('tiny-if-I', 'text_encoder');
  const io = readSafetensors(golden('t5_tiny_io.safetensors'));
  const integers = (name: string): Int32Array => Int32Array.from(io.get(name)!.data as BigInt64Array, Number);
  const config = parseT5Config(await readJson(path.join(dir, 'config.json')), dir);
  const t5 = await T5Encoder.load(config, [path.join(dir, 'model.safetensors')], { ...arithmetic, device });
  return forward(t5, integers('input_ids.i64'), integers('attention_mask.i64'), io.get('input_ids.i64')!.shape[0]!);
};

/** The text encoder of models/if-emoji on the prompts of its reference pictures. */
const emoji: Encode = async (arithmetic) => {
  const dir = fileURLToPath(new URL('../models/if-emoji', import.meta.url));
  const { prompts } = JSON.parse(readFileSync(golden('if-emoji/reference_samples.json'), 'utf8')) as { prompts: string[] };
  const { textEncoder } = await Cascade.load({ stage1: dir });
  const embeddings = await encodePrompts(prompts, textEncoder, { ...arithmetic, device, cacheDir: null });
  return Float32Array.from(embeddings.flatMap((embedding) => [...embedding]));
};

/** The first `layers` layers of T5-XXL with random weights, on two prompts of random tokens. */
const xxl: Encode = async (arithmetic) => {
  const config = { ...parseT5Config(await componentConfig('T5-XXL', 'text_encoder'), 'T5-XXL'), numLayers: layers };
  const t5 = await T5Encoder.random(config, { ...arithmetic, device });
  const ids = new Int32Array(2 * PROMPT_TOKENS).map((_, i) => (i * 7919) % config.vocabSize);
  return forward(t5, ids, new Int32Array(ids.length).fill(1), 2);
};

const cases: [string, Encode][] = [['tiny T5 of the tests', tiny], ['if-emoji, 24 prompts', emoji]];
if (layers > 0) cases.push([`T5-XXL, ${layers} layers, random`, xxl]);
console.log(`${''.padEnd(26)} bf16       int8, f32  int8, bf16`);
for (const [name, encode] of cases) {
  const exact = await encode({ dtype: 'f32', int8Weights: false });
  const errors: number[] = [];
  for (const arithmetic of [{ dtype: 'bf16', int8Weights: false }, { dtype: 'f32', int8Weights: true }, { dtype: 'bf16', int8Weights: true }] as const) {
    errors.push(relativeError(await encode(arithmetic), exact));
  }
  console.log(`${name.padEnd(26)} ${errors.map((error) => error.toExponential(2).padEnd(10)).join(' ')}`);
}
