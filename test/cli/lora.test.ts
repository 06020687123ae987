// LoRA as a user meets it: trained, continued, inspected, drawn with, merged, taken out again, and refused.
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeSafetensors } from '../../lib/weights/safetensors-writer.js';
import { relativeError } from '../support/compare.js';
import { plain } from '../support/pictures.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';

const TINY = golden('tiny-if-I');
let dir: string;
const at = (...parts: string[]): string => path.join(dir, ...parts);

interface Outcome { code: number; stdout: string; stderr: string }
function run(program: 'if-train' | 'if-sample' | 'if-convert', ...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [path.resolve('dist/cli', `${program}.js`), ...args], { cwd: dir, env: { ...process.env, IF_CACHE_DIR: at('cache') } }, (error, stdout, stderr) => {
      resolve({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr });
    });
  });
}
async function done(...args: Parameters<typeof run>): Promise<Outcome> {
  const outcome = await run(...args);
  expect(outcome.stderr).not.toMatch(/^if-(train|sample|convert):/m);
  expect(outcome.code).toBe(0);
  return outcome;
}
async function refused(message: RegExp, ...args: Parameters<typeof run>): Promise<void> {
  const { code, stdout, stderr } = await run(...args);
  expect(stderr).toMatch(message);
  expect([1, 2]).toContain(code); // 2: arguments
  expect(stdout).toBe('');
  expect(stderr).not.toMatch(/^\s+at /m);
}
/** `set`: KEY=VALUE, or other flags. */
const train = (out: string, ...set: string[]): Promise<Outcome> => done('if-train', 'config.json', '--out', out, ...set.flatMap((value) => (value.includes('=') ? ['--set', value] : [value])));
/** Draws two steps in float32. */
async function draw(...args: string[]): Promise<Float32Array> {
  await done('if-sample', 'a red apple', '--steps', '2', '--seed', '5', '--guidance', '2', '--dtype', 'f32', '--out', 'picture.safetensors', ...args);
  return floats(readSafetensors(at('picture.safetensors')), 'images').slice();
}
const ADAPTER = 'pytorch_lora_weights.safetensors';
const adapter = (...parts: string[]): Buffer => readFileSync(at(...parts, ADAPTER));
const unetWeights = (folder: string): ReturnType<typeof readSafetensors> => readSafetensors(path.join(folder, 'unet', 'diffusion_pytorch_model.safetensors'));

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'if-lora-'));
  mkdirSync(at('data'));
  for (let i = 0; i < 6; i++) await plain(40, 36, [40 * i, 255 - 40 * i, 99]).png().toFile(at('data', `${i}.png`));
  writeFileSync(at('data', 'metadata.jsonl'), Array.from({ length: 6 }, (_, i) => JSON.stringify({ file_name: `${i}.png`, text: `colour ${i}` })).join('\n'));
  writeFileSync(at('config.json'), JSON.stringify({
    model: { folder: TINY }, data: { type: 'folder', path: 'data' }, size: 8, batchSize: 2, steps: 4, lora: { rank: 3, alpha: 12, dropout: 0.1 },
    optimizer: { lr: 3e-2 }, ema: { decay: 0.5 }, gradientCheckpointing: true, validation: false, previews: false, checkpoints: { every: 2, keep: 2 }, threads: 1,
  }));
  await train('run', 'validation.pictures=1', 'validation.timesteps=2', 'previews.timesteps=2', 'previews.prompts=["red"]');
}, 120_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('a run with lora', () => {
  test('leaves an adapter in both layouts, previews, and small checkpoints', async () => {
    expect(readdirSync(at('run')).filter((name) => !name.startsWith('events.'))).toEqual(['checkpoints', 'metrics.jsonl', 'peft', 'previews', ADAPTER, 'training_config.json']);
    expect(readdirSync(at('run', 'previews')).length).toBe(2);
    expect(readdirSync(at('run', 'checkpoints', 'step-000004'))).toEqual(['state.json', 'unet.safetensors', 'unet_ema.safetensors', 'unet_moments.safetensors']);
    expect(readFileSync(at('run', 'checkpoints', 'step-000004', 'unet.safetensors')).length).toBeLessThan(100_000);
    const report = JSON.parse((await done('if-convert', 'inspect', 'run', '--json')).stdout) as { kind: string; lora: Record<string, unknown> };
    expect(report).toMatchObject({ kind: 'lora', lora: { ranks: [3], alphas: [12], origin: { baseModel: TINY, stage: 'I', prediction: 'epsilon', variance: 'learned' } } });
    expect((report.lora['modules'] as string[]).length).toBe(42);
    expect((await done('if-convert', 'inspect', 'run/peft/unet')).stdout).toMatch(/rank 3, alpha 12, 42 modules/);
  });

  test('stopped and continued it has the same bits, dropout and all; the published checkpoint is the adapter', async () => {
    await train('straight');
    await train('halves', '--steps', '2');
    await train('halves', '--resume');
    expect(adapter('halves')).toEqual(adapter('straight'));
    for (const part of ['unet', 'unet_ema', 'unet_moments']) expect(readFileSync(at('halves', 'checkpoints', 'step-000004', `${part}.safetensors`))).toEqual(readFileSync(at('straight', 'checkpoints', 'step-000004', `${part}.safetensors`)));
    await done('if-convert', 'publish', 'straight', 'published');
    expect(adapter('published')).toEqual(adapter('straight'));
    await train('without', 'lora.dropout=0');
    expect(adapter('without')).not.toEqual(adapter('straight'));
  }, 120_000);

  test('two replicas have the bits of one', async () => {
    await train('four', 'batchSize=4', 'steps=2');
    await train('replicas', 'batchSize=4', 'steps=2', 'devices=["cpu:0","cpu:1"]');
    expect(adapter('replicas')).toEqual(adapter('four'));
  }, 60_000);

  test('if-sample draws with it: unasked from its base, by any scale, 0 being the base; merged it gives the same bits', async () => {
    const base = await draw('--stage1', TINY);
    const whole = await draw('--stage1', TINY, '--lora', 'run', '--dtype', 'f32');
    expect(relativeError(whole, base)).toBeGreaterThan(1e-2);
    expect(await draw('--lora', 'run')).toEqual(whole); // the base model is in the metadata
    expect(await draw('--stage1', TINY, '--lora', 'run/peft/unet')).toEqual(whole);
    expect(await draw('--stage1', TINY, '--lora', 'run:0')).toEqual(base);
    await done('if-convert', 'merge-lora', TINY, 'merged', '--lora', 'run', '--dtype', 'f32');
    expect(await draw('--stage1', 'merged')).toEqual(whole);
    await done('if-convert', 'merge-lora', 'merged', 'back', '--lora', 'run:-1', '--dtype', 'f32');
    const [before, after] = [unetWeights(TINY), unetWeights(at('back'))];
    expect([...after.keys()]).toEqual([...before.keys()]);
    // two roundings, of weights and products that are smaller than the largest weight: a few 2^-24
    for (const name of before.keys()) expect(relativeError(floats(after, name), floats(before, name))).toBeLessThanOrEqual(1e-6);
    expect(relativeError(await draw('--stage1', 'back'), base)).toBeLessThanOrEqual(1e-3);
  }, 120_000);

  test('several adapters add up', async () => {
    await train('other', 'seed=9', 'lora.rank=2', 'lora.targets=["to_q","mid_block.attentions.0.to_out.0","time_embedding.linear_1"]');
    const both = await draw('--stage1', TINY, '--lora', 'run:0.5', '--lora', 'other:-0.25', '--dtype', 'f32');
    await done('if-convert', 'merge-lora', TINY, 'first', '--lora', 'run:0.5', '--dtype', 'f32');
    await done('if-convert', 'merge-lora', 'first', 'second', '--lora', 'other:-0.25', '--dtype', 'f32');
    expect(relativeError(await draw('--stage1', 'second'), both)).toBeLessThanOrEqual(1e-3);
    expect(relativeError(both, await draw('--stage1', TINY, '--lora', 'run:0.5'))).toBeGreaterThan(1e-3);
  }, 120_000);

  test('one of stage II goes to stage II', async () => {
    const second = golden('tiny-if-II');
    await train('two', `model.folder=${second}`, `model.textFolder=${TINY}`, 'size=16', 'steps=2');
    const cascade = ['--stage1', TINY, '--stage2', second, '--steps', '2,2', '--guidance', '2,2'];
    const plain = await draw(...cascade);
    expect(relativeError(await draw(...cascade, '--lora', 'two'), plain)).toBeGreaterThan(1e-3);
    // beside one of stage I, the same as both merged
    const both = await draw(...cascade, '--lora', 'two', '--lora', 'run');
    await done('if-convert', 'merge-lora', TINY, 'cascade-1', '--lora', 'run', '--dtype', 'f32');
    await done('if-convert', 'merge-lora', second, 'cascade-2', '--lora', 'two', '--dtype', 'f32');
    expect(await draw('--stage1', 'cascade-1', '--stage2', 'cascade-2', '--steps', '2,2', '--guidance', '2,2')).toEqual(both);
  }, 120_000);

  test('a variance that was not trained is not used, unasked', async () => {
    await train('fixed', 'objective.variance=fixed', 'saveDtype=f16');
    const drawn = await draw('--stage1', TINY, '--lora', 'fixed', '--dtype', 'f32');
    await done('if-convert', 'merge-lora', TINY, 'fixed-merged', '--lora', 'fixed', '--dtype', 'f32');
    const scheduler = (folder: string): { variance_type: string } => JSON.parse(readFileSync(path.join(folder, 'scheduler', 'scheduler_config.json'), 'utf8')) as { variance_type: string };
    expect([scheduler(TINY).variance_type, scheduler(at('fixed-merged')).variance_type]).toEqual(['learned_range', 'fixed_small']);
    expect(await draw('--stage1', 'fixed-merged')).toEqual(drawn);
    cpSync(at('fixed-merged'), at('learned'), { recursive: true });
    cpSync(path.join(TINY, 'scheduler'), at('learned', 'scheduler'), { recursive: true });
    expect(relativeError(await draw('--stage1', 'learned'), drawn)).toBeGreaterThan(1e-3);
  }, 120_000);

  test('of the text encoder as well: its embeddings are cached apart', async () => {
    await train('text', 'lora.textEncoder=true', 'previews.timesteps=2', 'previews.prompts=["red"]');
    expect(readdirSync(at('text', 'peft'))).toEqual(['text_encoder', 'unet']);
    const names = [...readSafetensors(at('text', ADAPTER)).keys()];
    expect(names.filter((name) => name.startsWith('text_encoder.encoder.block.')).length).toBeGreaterThan(0);
    const base = await draw('--stage1', TINY);
    const whole = await draw('--stage1', TINY, '--lora', 'text', '--dtype', 'f32');
    expect(await draw('--stage1', TINY, '--lora', 'text')).toEqual(whole); // from the cache
    expect(await draw('--stage1', TINY)).toEqual(base);
    const unet = await draw('--stage1', TINY, '--lora', 'text/peft/unet');
    expect(relativeError(whole, unet)).toBeGreaterThan(1e-4);
    await done('if-convert', 'merge-lora', TINY, 'text-merged', '--lora', 'text', '--dtype', 'f32');
    expect(await draw('--stage1', 'text-merged')).toEqual(whole);
  }, 120_000);
});

describe('one line for', () => {
  const sample = (message: RegExp, ...lora: string[]): Promise<void> => refused(message, 'if-sample', 'x', '--stage1', TINY, '--steps', '1', ...lora.flatMap((value) => ['--lora', value]));
  const training = (message: RegExp, ...set: string[]): Promise<void> => refused(message, 'if-train', 'config.json', '--out', 'never', ...set.flatMap((value) => ['--set', value]));
  /** An adapter of one module. */
  async function written(name: string, module: string, out: number, input: number, metadata: Record<string, string> = {}): Promise<string> {
    mkdirSync(at(name));
    await writeSafetensors(at(name, ADAPTER), ([['lora_A', [2, input]], ['lora_B', [out, 2]]] as [string, number[]][]).map(([part, shape]) => ({
      name: `unet.${module}.${part}.weight`, shape, dtype: 'f32', read: async () => ({ bytes: Buffer.alloc(4 * shape[0]! * shape[1]!), dtype: 'f32' }),
    })), Object.entries(metadata));
    return name;
  }

  test('adapters that do not fit', async () => {
    await sample(/^if-sample: wrong-name: the adapter does not fit the unet: 1 modules are no linear layers of the network: mid_block\.attentions\.0\.to_qq \(did you mean mid_block\.attentions\.0\.to_q\?\)\n$/, await written('wrong-name', 'mid_block.attentions.0.to_qq', 64, 64));
    await sample(/1 modules have another shape: mid_block\.attentions\.0\.to_q \(\(64, 64\), the adapter's product is \(32, 64\)\)/, await written('wrong-shape', 'mid_block.attentions.0.to_q', 32, 64));
    await sample(/^if-sample: lora of-two: it was trained on stage II; the cascade has stage I only\n$/, await written('of-two', 'mid_block.attentions.0.to_q', 64, 64, { 'if.stage': 'II' }));
    await refused(/^if-convert: lora of-two: it was trained on stage II, .*tiny-if-I is a stage I\n$/, 'if-convert', 'merge-lora', TINY, 'never', '--lora', 'of-two');
    await refused(/^if-sample: lora lost: it was trained on "no\/where", which is not here: say where stage I lies with stage1\n$/, 'if-sample', 'x', '--lora', await written('lost', 'mid_block.attentions.0.to_q', 64, 64, { 'if.stage': 'I', 'if.base_model': 'no/where' }));
    await sample(/^if-sample: lora of-velocity: it was trained to predict v_prediction, run epsilon: they do not go together\n$/, 'run', await written('of-velocity', 'mid_block.attentions.0.to_q', 64, 64, { 'if.prediction': 'v_prediction' }));
    await sample(/expected DIR or DIR:SCALE with a scale from -1000 to 1000, got "much"/, 'run:much');
    await sample(/^if-sample: lora run: it is given twice; add the scales up\n$/, 'run', 'run:0.5');
    await sample(/^if-sample: nowhere: no such file or folder\n$/, 'nowhere');
    await refused(/the adapter does not fit the unet: 1 modules are no linear/, 'if-convert', 'merge-lora', TINY, 'never', '--lora', 'wrong-name');
    cpSync(TINY, at('renamed'), { recursive: true });
    const file = at('renamed', 'unet', 'diffusion_pytorch_model.safetensors');
    writeFileSync(file, readFileSync(file, 'latin1').replace('"mid_block.attentions.0.to_q.weight"', '"mid_block.attentions.0.to_w.weight"'), 'latin1');
    cpSync(TINY, at('unscheduled'), { recursive: true });
    rmSync(at('unscheduled', 'scheduler', 'scheduler_config.json'));
    await refused(/^if-convert: reading .*unscheduled.scheduler.scheduler_config\.json: /, 'if-convert', 'merge-lora', 'unscheduled', 'never', '--lora', 'run'); // before anything is written
    await refused(/^if-convert: merge-lora: the weights in .*renamed.unet have no mid_block\.attentions\.0\.to_q\.weight, which an adapter changes\n$/, 'if-convert', 'merge-lora', 'renamed', 'never', '--lora', 'run');
  }, 60_000);

  test('configurations that do not fit', async () => {
    await training(/lora\.rank: expected a whole number from 1 to 65536, got 0/, 'lora.rank=0');
    await training(/lora\.dropout: expected a number from 0 to 0\.99, got 1/, 'lora.dropout=1');
    await training(/^if-train: lora\.targets: "to_w" is no linear layer of the unet; did you mean "to_[qkv]"\? \(layers end in /m, 'lora.targets=["to_q","to_w"]');
    await training(/lora\.textTargets: "relative_attention_bias" is no linear layer of the text_encoder/, 'lora.textEncoder=true', 'lora.textTargets=["relative_attention_bias"]');
    await training(/lora\.textTargets: needs lora\.textEncoder: true/, 'lora.textTargets=["q"]');
    await training(/model\.trainTextEncoder: with lora the model is frozen; set lora\.textEncoder/, 'model.trainTextEncoder=true');
    await training(/lora: needs the weights that it adapts; leave model\.fromScratch out/, 'model.fromScratch=true');
    await refused(/the configuration differs from that of the run in run in lora\.rank/, 'if-train', 'config.json', '--out', 'run', '--resume', '--set', 'lora.rank=5');
  }, 60_000);
});
