// Writes a pipeline folder with random weights, to measure loading and memory with models whose weights are gated:
// `npm run bench:weights -- --config IF-I-XL --out DIR`.
import { cp } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addon, type DType } from '../lib/addon.js';
import { IFError } from '../lib/errors.js';
import { parseT5Config, parseUNetConfig } from '../lib/models/config.js';
import { denoisingScheduler, imageNoisingScheduler, pipelineIndex, writeJson } from '../lib/weights/pipeline-files.js';
import { componentConfig, namedConfig } from './configs.js';

const USAGE = `usage: npm run bench:weights -- --config NAME|DIR --out DIR [--dtype bf16|f16|f32] [--shard-gb 5]
  NAME  IF-I-M, IF-I-L, IF-I-XL (with T5-XXL as the text encoder), IF-II-L, or T5-XXL (the text encoder alone)
  DIR   a pipeline folder: the same configurations, other weights`;

const IF_TOKENIZER = fileURLToPath(new URL('../models/if-emoji/tokenizer', import.meta.url));

type FileDType = DType | 'f16';

/** One component: config.json, the tensors, and the index of their files when there are several. */
async function writeComponent(dir: string, config: unknown, kind: 'unet' | 't5', dtype: FileDType, shardBytes: number): Promise<void> {
  await writeJson(path.join(dir, 'config.json'), config);
  const base = kind === 'unet' ? 'diffusion_pytorch_model' : 'model';
  const parsed = kind === 'unet' ? parseUNetConfig(config, dir) : parseT5Config(config, dir);
  const started = performance.now();
  const shards = await addon.writeRandomWeights(kind, JSON.stringify(parsed), dtype, path.join(dir, base), shardBytes);
  const bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
  if (shards.length > 1) {
    const weightMap = Object.fromEntries(shards.flatMap(({ file, names }) => names.map((name) => [name, path.basename(file)])));
    await writeJson(path.join(dir, `${base}.safetensors.index.json`), { metadata: { total_size: bytes }, weight_map: weightMap });
  }
  const seconds = (performance.now() - started) / 1000;
  console.log(`${dir}: ${(bytes / 1e9).toFixed(3)} GB in ${shards.length} file(s), ${seconds.toFixed(1)} s`);
}

/** Text encoder and tokenizer: those of T5-XXL for a published model, else those of the folder `name`. */
async function writeTextEncoder(name: string, out: string, dtype: FileDType, shardBytes: number): Promise<void> {
  const published = namedConfig(name) !== undefined;
  await writeComponent(path.join(out, 'text_encoder'), await componentConfig(published ? 'T5-XXL' : name, 'text_encoder'), 't5', dtype, shardBytes);
  await cp(published ? IF_TOKENIZER : path.join(name, 'tokenizer'), path.join(out, 'tokenizer'), { recursive: true });
}

async function writePipeline(name: string, out: string, dtype: FileDType, shardBytes: number): Promise<void> {
  if (namedConfig(name)?.['model_type'] === 't5') return writeTextEncoder(name, out, dtype, shardBytes);
  const unet = await componentConfig(name, 'unet');
  const kind = parseUNetConfig(unet, name).classEmbedType === 'timestep' ? 'super_resolution' : 'base';
  await writeComponent(path.join(out, 'unet'), unet, 'unet', dtype, shardBytes);
  await writeJson(path.join(out, 'scheduler', 'scheduler_config.json'), denoisingScheduler(kind));
  if (kind === 'base') await writeTextEncoder(name, out, dtype, shardBytes);
  else await writeJson(path.join(out, 'image_noising_scheduler', 'scheduler_config.json'), imageNoisingScheduler());
  // last: a folder without it is not taken for a pipeline
  await writeJson(path.join(out, 'model_index.json'), pipelineIndex(kind, kind === 'base'));
}

function stop(message: string): never {
  console.error(`write-weights: ${message}\n${USAGE}`);
  process.exit(2);
}

const { values } = parseArgs({
  options: { config: { type: 'string' }, out: { type: 'string' }, dtype: { type: 'string', default: 'bf16' }, 'shard-gb': { type: 'string', default: '5' } },
});
const config = values.config ?? stop('--config is missing');
const out = values.out ?? stop('--out is missing');
const { dtype } = values;
if (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'f16') stop(`--dtype: expected bf16, f16 or f32, got "${dtype}"`);
const shardBytes = Math.floor(Number(values['shard-gb']) * 1e9);
if (!(shardBytes >= 1)) stop(`--shard-gb: expected a positive number, got "${values['shard-gb']}"`);
try {
  await writePipeline(config, out, dtype, shardBytes);
} catch (error) {
  if (!(error instanceof IFError)) throw error;
  console.error(`write-weights: ${error.message}`);
  process.exit(1);
}
