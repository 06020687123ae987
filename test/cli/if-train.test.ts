// Training as a user meets it: whole runs of a tiny network in their own process, killed and continued, and one clear line
// for everything that can be wrong.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readPngText } from '../../lib/image.js';
import { plain } from '../support/pictures.js';
import { golden, readSafetensors } from '../support/safetensors.js';

const CLI = path.resolve('dist/cli/if-train.js');
const SAMPLE = path.resolve('dist/cli/if-sample.js');
let dir: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'if-train-'));
  env = { ...process.env, IF_CACHE_DIR: path.join(dir, 'cache') };
  mkdirSync(path.join(dir, 'data'));
  for (let i = 0; i < 12; i++) await plain(40, 36, [20 * i, 255 - 20 * i, 99]).png().toFile(path.join(dir, 'data', `${i}.png`));
  writeFileSync(path.join(dir, 'data', 'metadata.jsonl'), Array.from({ length: 12 }, (_, i) => JSON.stringify({ file_name: `${i}.png`, text: `colour ${i}` })).join('\n'));
  writeFileSync(path.join(dir, 'base.ts'), `export const base = {
    model: { folder: ${JSON.stringify(golden('tiny-if-I'))} }, data: { type: 'folder' as const, path: 'data' }, size: 8, batchSize: 2, steps: 6,
    optimizer: { lr: 1e-3 }, validation: false as const, previews: false as const, checkpoints: { every: 2, keep: 2 }, threads: 1 };`);
  writeFileSync(path.join(dir, 'config.ts'), `import { defineConfig } from 'deepfloyd-if';\nimport { base } from './base';\nexport default defineConfig(base);`);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Outcome { code: number; stdout: string; stderr: string }
function execute(program: string, args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], { cwd: dir, env }, (error, stdout, stderr) => resolve({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr }));
  });
}
const run = (...args: string[]): Promise<Outcome> => execute(CLI, args);
const train = (out: string, ...args: string[]): Promise<Outcome> => run('config.ts', '--out', out, ...args);
async function trained(out: string, ...args: string[]): Promise<Outcome> {
  const outcome = await train(out, ...args);
  expect(outcome.stderr).not.toMatch(/if-train:/);
  expect(outcome.code).toBe(0);
  expect(outcome.stdout).toBe(`${out}\n`);
  return outcome;
}
const json = (...parts: string[]): Record<string, unknown> => JSON.parse(readFileSync(path.join(dir, ...parts), 'utf8')) as Record<string, unknown>;
const checkpoints = (out: string): string[] => readdirSync(path.join(dir, out, 'checkpoints')).sort();
/** Of every file of the newest checkpoint but the state's text, and of the result. */
function digests(out: string): string[] {
  const files = ['unet/diffusion_pytorch_model.safetensors', ...['unet', 'unet_ema', 'unet_moments'].map((part) => `checkpoints/${checkpoints(out).at(-1)}/${part}.safetensors`)];
  return files.map((file) => `${file} ${createHash('sha256').update(readFileSync(path.join(dir, out, file))).digest('hex')}`);
}
const losses = (out: string): unknown[] => readFileSync(path.join(dir, out, 'metrics.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>)
  .filter(({ group }) => group === 'train').map(({ step, loss, gradient_norm }) => [step, loss, gradient_norm]);

interface Running { child: ChildProcess; exited: Promise<number | null>; stderr: () => string }
function start(...args: string[]): Running {
  const child = spawn(process.execPath, [CLI, ...args], { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr!.on('data', (data: Buffer) => (text += data.toString()));
  return { child, exited: new Promise((resolve) => child.once('exit', (code) => resolve(code))), stderr: () => text };
}
/** Waits for a condition, or for the end of the process. */
async function until(running: Running, condition: () => boolean): Promise<void> {
  let over = false;
  void running.exited.then(() => (over = true));
  while (!over && !condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

describe('a run', () => {
  test('leaves checkpoints, metrics, previews, the configuration, and a pipeline that if-sample draws from', async () => {
    const { stderr } = await trained('run', '--set', 'validation.pictures=2', '--set', 'validation.timesteps=2', '--set', 'validation.every=3',
      '--set', 'previews.every=3', '--set', 'previews.timesteps=2', '--set', 'previews.prompts=["red", "blue"]', '--verbose');
    expect(stderr).toMatch(/plan: training: weights 21 MB/);
    expect(stderr).toMatch(/memory: about \d+ MB of the \d+\.\d GB that are available/);
    expect(stderr).toMatch(/step 6\/6, loss \d\.\d{4}, norm \d+\.\d+, lr 1\.0e-3, \d+\.\d img\/s, \d+ MB/);
    expect(stderr).toMatch(/step 5\/6, .* ETA \d+\.\d s/);
    expect(stderr).toMatch(/step 3: validation loss \d\.\d{5}, of the average \d\.\d{5}/);
    expect(checkpoints('run')).toEqual(['step-000004', 'step-000006']);
    expect(json('run', 'training_config.json')).toMatchObject({ size: 8, steps: 6, microBatch: 2, stage: 1, captionDropout: 0.1, objective: { prediction: 'epsilon', variance: 'learned' }, validation: { pictures: 2 } });
    expect(readdirSync(path.join(dir, 'run', 'previews'))).toEqual(['step-000000.png', 'step-000003.png', 'step-000006.png']);
    const grid = path.join(dir, 'run', 'previews', 'step-000006.png');
    expect(await sharp(grid).metadata()).toMatchObject({ width: 18, height: 8 });
    expect(await readPngText(grid)).toMatchObject({ prompts: '["red","blue"]', step: '6' });
    expect(losses('run').length).toBe(6);
    expect(readdirSync(path.join(dir, 'run')).some((name) => name.startsWith('events.out.tfevents.'))).toBe(true);

    expect(json('run', 'scheduler', 'scheduler_config.json')).toMatchObject({ variance_type: 'learned_range', prediction_type: 'epsilon', thresholding: true });
    const base = readSafetensors(golden('tiny-if-I', 'unet', 'diffusion_pytorch_model.safetensors'));
    const result = readSafetensors(path.join(dir, 'run', 'unet', 'diffusion_pytorch_model.safetensors'));
    expect([...result.keys()].sort()).toEqual([...base.keys()].sort());
    for (const [name, { shape, dtype }] of result) expect([name, shape, dtype]).toEqual([name, base.get(name)!.shape, 'F32']);
    expect(readFileSync(path.join(dir, 'run', 'text_encoder', 'model.safetensors'))).toEqual(readFileSync(golden('tiny-if-I', 'text_encoder', 'model.safetensors')));
    const drawn = await execute(SAMPLE, ['red', '--stage1', 'run', '--steps', '2', '--seed', '1', '--out', 'red.png']);
    expect(drawn.stderr).toMatch(/stage1 2\/2/);
    expect(drawn.code).toBe(0);
  });

  test('the resolved configuration gives the same run again', async () => {
    await trained('first', '--steps', '3');
    const again = await run(path.join('first', 'training_config.json'), '--out', 'again');
    expect(again.code).toBe(0);
    expect(digests('again')).toEqual(digests('first'));
  });

  test('one thread, two threads, two replicas: the same losses and the same bits', async () => {
    await trained('one', '--set', 'batchSize=4', '--steps', '4');
    await trained('two', '--set', 'batchSize=4', '--steps', '4', '--threads', '2');
    await trained('replicas', '--set', 'batchSize=4', '--steps', '4', '--devices', 'cpu:0,cpu:1');
    for (const other of ['two', 'replicas']) {
      expect(losses(other)).toEqual(losses('one'));
      expect(digests(other)).toEqual(digests('one'));
    }
    await trained('seed', '--set', 'batchSize=4', '--steps', '4', '--set', 'seed=1');
    expect(losses('seed')).not.toEqual(losses('one'));
  });

  test('fixed variance, v-prediction: what was trained is what the sampler is told', async () => {
    await trained('fixed', '--steps', '1', '--set', 'objective.variance=fixed', '--set', 'objective.prediction=v_prediction', '--set', 'ema=false', '--set', 'saveDtype=f16');
    expect(json('fixed', 'scheduler', 'scheduler_config.json')).toMatchObject({ variance_type: 'fixed_small', prediction_type: 'v_prediction' });
    expect(checkpoints('fixed')).toEqual(['step-000001']);
    expect(readdirSync(path.join(dir, 'fixed', 'checkpoints', 'step-000001')).sort()).toEqual(['state.json', 'unet.safetensors', 'unet_moments.safetensors']);
    expect(readSafetensors(path.join(dir, 'fixed', 'unet', 'diffusion_pytorch_model.safetensors')).get('conv_in.weight')!.dtype).toBe('F16');
    expect((await execute(SAMPLE, ['x', '--stage1', 'fixed', '--steps', '2', '--out', 'fixed.png'])).code).toBe(0);
  });

  test('stage II', async () => {
    const { stderr } = await trained('second', '--steps', '2', '--set', `model.folder=${golden('tiny-if-II')}`, '--set', 'size=16', '--set', 'lowRes.filter=box',
      '--set', 'validation.pictures=2', '--set', 'validation.timesteps=2', '--set', 'previews.timesteps=2');
    expect(stderr).toMatch(/step 2: validation loss/);
    expect(await sharp(path.join(dir, 'second', 'previews', 'step-000002.png')).metadata()).toMatchObject({ width: 34, height: 16 });
    expect(existsSync(path.join(dir, 'second', 'image_noising_scheduler', 'scheduler_config.json'))).toBe(true);
    expect((await execute(SAMPLE, ['x', '--stage1', golden('tiny-if-I'), '--stage2', 'second', '--steps', '1,1', '--out', 'second.png'])).code).toBe(0);
  });

  test('stage II on samples of stage I: the same for any split of a batch, and continued', async () => {
    const stage1 = ['--set', `model.folder=${golden('tiny-if-II')}`, '--set', 'size=32', '--set', `lowRes.stage1.folder=${golden('tiny-if-I')}`, '--set', 'lowRes.stage1.timesteps=4', '--set', 'batchSize=4'];
    await trained('samples', ...stage1, '--steps', '3');
    await trained('samples-1', ...stage1, '--steps', '3', '--set', 'microBatch=2');
    expect(losses('samples-1')).toEqual(losses('samples'));
    await trained('samples-2', ...stage1, '--steps', '2');
    await trained('samples-2', ...stage1, '--steps', '3', '--resume');
    expect(digests('samples-2')).toEqual(digests('samples'));
    await trained('reduced', ...stage1.slice(0, 4), '--steps', '3', '--set', 'batchSize=4');
    expect(losses('reduced')).not.toEqual(losses('samples'));
  });

  test('from scratch with the text encoder, continued: bit for bit, and the encoder is in the result', async () => {
    const scratch = ['--set', 'model.fromScratch=true', '--set', 'model.trainTextEncoder=true', '--set', 'model.textEncoder.num_layers=1', '--set', 'previews.timesteps=1', '--set', 'previews.every=4'];
    await trained('scratch', ...scratch, '--steps', '4');
    await trained('scratch-2', ...scratch, '--steps', '2');
    await trained('scratch-2', ...scratch, '--steps', '4', '--resume');
    expect(digests('scratch-2')).toEqual(digests('scratch'));
    const parts = readdirSync(path.join(dir, 'scratch', 'checkpoints', 'step-000004'));
    expect(parts).toEqual(expect.arrayContaining(['t5.safetensors', 't5_ema.safetensors', 't5_moments.safetensors']));
    for (const part of ['t5', 't5_moments']) expect(readFileSync(path.join(dir, 'scratch-2/checkpoints/step-000004', `${part}.safetensors`))).toEqual(readFileSync(path.join(dir, 'scratch/checkpoints/step-000004', `${part}.safetensors`)));
    expect(json('scratch', 'text_encoder', 'config.json')['num_layers']).toBe(1);
    expect((await execute(SAMPLE, ['x', '--stage1', 'scratch', '--steps', '1', '--out', 'scratch.png'])).code).toBe(0);
  });
});

describe('killed', () => {
  test('at random moments, also while it writes a checkpoint: it ends with the weights of an unbroken run', async () => {
    const args = ['config.ts', '--steps', '24', '--resume'];
    const whole = await run(...args, '--out', 'whole');
    expect(whole.code).toBe(0);
    let writing = 0;
    let kills = 0;
    for (; kills < 8; kills++) {
      const running = start(...args, '--out', 'killed');
      const root = path.join(dir, 'killed', 'checkpoints');
      const steps = kills + Math.floor(Math.random() * 3);
      if (kills % 2 === 0) await until(running, () => existsSync(root) && readdirSync(root).some((name) => name.startsWith('.unfinished')));
      else {
        await until(running, () => (running.stderr().match(/^step \d+\/24/gm) ?? []).length > steps % 4);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
      }
      running.child.kill('SIGKILL');
      if (await running.exited === 0) break; // it was faster
      if (existsSync(root) && readdirSync(root).some((name) => name.startsWith('.unfinished'))) writing++;
    }
    expect(kills).toBeGreaterThanOrEqual(4);
    expect(writing).toBeGreaterThanOrEqual(1);
    const { code, stderr } = await run(...args, '--out', 'killed');
    expect(code, stderr).toBe(0);
    expect(digests('killed')).toEqual(digests('whole'));
    expect(losses('killed')).toEqual(losses('whole'));
    expect(checkpoints('killed')).toEqual(checkpoints('whole'));
  });

  test('Ctrl-C finishes the step, writes a checkpoint and stops; a second one stops at once', async () => {
    const args = ['config.ts', '--out', 'stopped', '--steps', '10000', '--set', 'checkpoints.every=10000'];
    const running = start(...args);
    await until(running, () => /^step 1\//m.test(running.stderr()));
    running.child.kill('SIGINT');
    expect(await running.exited).toBe(130);
    expect(running.stderr()).toMatch(/stopping after this step, with a checkpoint; Ctrl-C again stops at once\n/);
    expect(running.stderr()).toMatch(/step (\d+): stopped\/checkpoints\/step-0*\1\n(.*\n)*if-train: interrupted\n$/);
    expect(checkpoints('stopped').length).toBe(1);

    const slow = start('config.ts', '--out', 'twice', '--steps', '10', '--set', 'batchSize=64', '--set', 'microBatch=1', '--set', 'size=32');
    await until(slow, () => existsSync(path.join(dir, 'twice', 'metrics.jsonl')));
    await new Promise((resolve) => setTimeout(resolve, 100));
    slow.child.kill('SIGINT');
    await until(slow, () => /Ctrl-C again/.test(slow.stderr()));
    const asked = performance.now();
    slow.child.kill('SIGINT');
    expect(await slow.exited).toBe(130);
    expect(performance.now() - asked).toBeLessThan(1000);
    expect(existsSync(path.join(dir, 'twice', 'checkpoints'))).toBe(false);
  });

  test('a checkpoint that cannot be written whole: a clear error, the older one stays', async () => {
    await trained('limited', '--steps', '2', '--set', 'checkpoints.every=2');
    const limited = spawn('bash', ['-c', `ulimit -f 7000 && exec "${process.execPath}" "${CLI}" config.ts --out limited --steps 6 --resume`], { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    limited.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    expect(await new Promise((resolve) => limited.once('exit', resolve))).toBe(1);
    expect(stderr).toMatch(/if-train: the checkpoint of step 4 was not written: .*File too large; the checkpoint of step 2 is intact; continue from it with --resume\n$/);
    expect(checkpoints('limited')).toEqual(['step-000002']);
    await trained('limited', '--steps', '6', '--resume');
    await trained('unlimited', '--steps', '6');
    expect(digests('limited')).toEqual(digests('unlimited'));
  });
});

describe('what it refuses', () => {
  /** One line on stderr that matches, no stack, the given exit code, nothing trained. */
  async function refused(code: number, message: RegExp, ...args: string[]): Promise<void> {
    const { code: actual, stdout, stderr } = await run(...args);
    expect(stderr).toMatch(message);
    expect(actual).toBe(code);
    expect(stdout).toBe('');
    expect(stderr.trim().split('\n').filter((line) => line.startsWith('if-train:') || line.startsWith('error:')).length).toBe(1);
    expect(stderr).not.toMatch(/^\s+at |loading/m);
    expect(existsSync(path.join(dir, 'refused', 'checkpoints'))).toBe(false);
  }
  const config = (...args: string[]): string[] => ['config.ts', '--out', 'refused', ...args];

  test('arguments and configuration', async () => {
    writeFileSync(path.join(dir, 'broken.ts'), 'export default {');
    writeFileSync(path.join(dir, 'unknown.json'), '{ "model": { "folder": "x" }, "data": { "type": "folder", "path": "x" }, "stepz": 3 }');
    await Promise.all([
      refused(2, /missing required argument 'config'/),
      refused(2, /unknown option '--colour'/, ...config('--colour')),
      refused(2, /--steps.*expected a whole number/, ...config('--steps', 'many')),
      refused(2, /config\.ts: steps: expected a whole number from 1 to/, ...config('--steps', '0')),
      refused(2, /--set: unknown key "optimiser"; did you mean "optimizer"\?/, ...config('--set', 'optimiser.lr=1')),
      refused(2, /--set: optimizer\.lr: expected a number from 1e-12 to 10, got "fast"/, ...config('--set', 'optimizer.lr=fast')),
      refused(1, /none\.ts: no such file/, 'none.ts'),
      refused(2, /devices|device: expected cpu/, ...config('--devices', 'tpu')),
      refused(1, /cuda:0 cannot be used: [^\n]+$/m, ...config('--device', 'cuda')),
      refused(2, /devices: expected all of one type, got cpu, cuda/, ...config('--devices', 'cpu,cuda')),
      refused(1, /broken\.ts could not be run: /, 'broken.ts'),
      refused(2, /unknown\.json: unknown key "stepz"; did you mean "steps"\?/, 'unknown.json'),
    ]);
  });

  test('model and data', async () => {
    mkdirSync(path.join(dir, 'empty'));
    mkdirSync(path.join(dir, 'uncaptioned'));
    cpSync(path.join(dir, 'data', '1.png'), path.join(dir, 'uncaptioned', '1.png'));
    await Promise.all([
      refused(1, /nowhere: no such folder/, ...config('--set', 'model.folder=nowhere')),
      refused(2, /stage: the configuration is for stage 2, but .* is a stage I/, ...config('--set', 'stage=2')),
      refused(1, /nowhere/, ...config('--set', 'data.path=nowhere')),
      refused(1, /empty/, ...config('--set', 'data.path=empty')),
      refused(1, /uncaptioned.*(caption|text|metadata)/, ...config('--set', 'data.path=uncaptioned')),
      refused(2, /textFolder|text of width/, ...config('--set', 'model.textFolder=if-emoji')),
    ]);
  });

  test('a model that does not fit in memory, with its number', async () => {
    // IF-I-XL by its configuration: nothing of it is read
    const xl = (JSON.parse(readFileSync('bench/model-configs.json', 'utf8')) as Record<string, Record<string, unknown>>)['IF-I-XL']!;
    writeFileSync(path.join(dir, 'xl.json'), JSON.stringify({ data: { type: 'folder', path: 'data' }, steps: 1, validation: false, previews: false, model: { folder: golden('tiny-if-I'), fromScratch: true, unet: { ...xl, encoder_hid_dim: 64, addition_embed_type_num_heads: 4 } }, size: 64, out: 'refused' }));
    await refused(1, /training needs \d+\.\d GB \(parameters, gradients, moments and average 8\d\.\d GB, activations \d+\.\d GB\), .* are available: .*set gradientCheckpointing: true/, 'xl.json');
  });

  test('to overwrite or continue what does not belong together', async () => {
    await trained('kept', '--steps', '2');
    const before = digests('kept');
    const again = await train('kept', '--steps', '2');
    expect(again.stderr).toMatch(/kept holds a run already: continue it with --resume, or choose another folder with --out/);
    const other = await train('kept', '--steps', '4', '--resume', '--set', 'optimizer.lr=1e-4', '--set', 'captionDropout=0');
    expect(other.stderr).toMatch(/the configuration differs from that of the run in kept in captionDropout, optimizer\.lr/);
    expect([again.code, other.code]).toEqual([2, 2]);
    expect(digests('kept')).toEqual(before);
  });
});

test('--help shows examples', async () => {
  const { code, stdout } = await run('--help');
  expect(code).toBe(0);
  expect(stdout).toMatch(/Examples:\n/);
});
