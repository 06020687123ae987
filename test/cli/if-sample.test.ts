// The command line as a user meets it: what it writes, and one clear line for everything that can be wrong.
import { execFile, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import sharp from 'sharp';
import { readPngText, toBytes } from '../../lib/image.js';
import { floats, golden, readSafetensors } from '../support/safetensors.js';

const CLI = path.resolve('dist/cli/if-sample.js');
const TINY = golden('tiny-if-I');
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'if-cli-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Outcome { code: number; stdout: string; stderr: string }
function run(args: string[], env: Record<string, string> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, ...args], { cwd: dir, env: { ...process.env, IF_CACHE_DIR: path.join(dir, 'cache'), ...env } }, (error, stdout, stderr) => {
      resolve({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr });
    });
  });
}
const tiny = (...args: string[]): Promise<Outcome> => run(['a red apple', '--stage1', TINY, '--steps', '2', '--seed', '5', ...args]);

/** One line on stderr that matches, no stack, the given exit code, and nothing written. */
async function expectRefused(outcome: Promise<Outcome>, code: number, message: RegExp): Promise<void> {
  const before = readdirSync(dir);
  const { code: actual, stdout, stderr } = await outcome;
  expect(stderr).toMatch(message);
  expect(actual).toBe(code);
  expect(stdout).toBe('');
  expect(stderr).not.toMatch(/^\s+at /m);
  expect(readdirSync(dir)).toEqual(before.length ? expect.arrayContaining(before) : []);
  expect(readdirSync(dir).filter((name) => /\.(png|tmp)$/.test(name))).toEqual(before.filter((name) => /\.(png|tmp)$/.test(name)));
}

describe('what it writes', () => {
  test('a PNG named after prompt and seed, with prompt, seed and settings', async () => {
    const { code, stdout, stderr } = await run(['A red apple!', '--stage1', TINY, '--steps', '2', '--seed', '5', '--negative', 'blurry', '--guidance', '3']);
    expect(stderr).toMatch(/stage1 2\/2/);
    expect(code).toBe(0);
    expect(stdout.trim()).toBe('a-red-apple-5.png');
    const { width, height } = await sharp(path.join(dir, 'a-red-apple-5.png')).metadata();
    expect([width, height]).toEqual([32, 32]);
    const text = await readPngText(path.join(dir, 'a-red-apple-5.png'));
    expect(text).toMatchObject({ prompt: 'A red apple!', 'negative prompt': 'blurry', seed: '5', Software: 'deepfloyd-if' });
    expect(JSON.parse(text['settings']!)).toEqual({ dtype: 'f32', precision: 'default', stages: [{ timesteps: 2, guidance: 3, noiseLevel: 250 }] });
    rmSync(path.join(dir, 'a-red-apple-5.png'));
  });

  test('safetensors with the same picture; several prompts and pictures; the stages', async () => {
    expect((await tiny('--num-images', '2', '--out', 'batch.safetensors')).code).toBe(0);
    expect((await tiny('--num-images', '2', '--out', 'batch.png')).code).toBe(0);
    const images = readSafetensors(path.join(dir, 'batch.safetensors'));
    expect(images.get('images')!.shape).toEqual([2, 3, 32, 32]);
    const second = { data: floats(images, 'images').subarray(3 * 32 * 32), shape: [1, 3, 32, 32] as [number, number, number, number] };
    const png = await sharp(path.join(dir, 'batch-2.png')).raw().toBuffer();
    expect(Buffer.from(toBytes(second))).toEqual(png);
    const cascade = await run(['a red apple', '--stage1', TINY, '--stage2', golden('tiny-if-II'), '--steps', '2,1', '--seed', '5', '--save-stages', '--out', 'both.png']);
    expect(cascade.stdout.trim().split('\n')).toEqual(['both.png', 'both.stage1.png']);
    expect((await sharp(path.join(dir, 'both.png')).metadata()).width).toBe(64);
    expect((await sharp(path.join(dir, 'both.stage1.png')).metadata()).width).toBe(32);
  });

  test('the same seed gives the same bits with 1 and 2 threads, in both types', async () => {
    for (const dtype of ['f32', 'bf16']) {
      await tiny('--dtype', dtype, '--threads', '1', '--out', 'one.safetensors');
      await tiny('--dtype', dtype, '--threads', '2', '--out', 'two.safetensors');
      expect(readFileSync(path.join(dir, 'one.safetensors'))).toEqual(readFileSync(path.join(dir, 'two.safetensors')));
    }
  });

  test('--exact and --fast compute other bits, and the file says so; the same bits with one and with two threads', async () => {
    const pixels: Float32Array[] = [];
    for (const precision of ['default', 'exact', 'fast']) {
      const draw = (...more: string[]): Promise<Outcome> => tiny('--dtype', 'bf16', ...(precision === 'default' ? [] : [`--${precision}`]), ...more);
      await draw('--out', `${precision}.png`);
      expect(JSON.parse((await readPngText(path.join(dir, `${precision}.png`)))['settings']!)).toMatchObject({ precision });
      await draw('--threads', '1', '--out', 'one.safetensors');
      await draw('--threads', '2', '--out', 'two.safetensors');
      const [one, two] = ['one', 'two'].map((name) => floats(readSafetensors(path.join(dir, `${name}.safetensors`)), 'images'));
      expect(one).toEqual(two);
      for (const other of pixels) expect(one).not.toEqual(other);
      pixels.push(one!);
    }
  });

  test('--verbose prints the plan, time and GFLOP/s; --version; --help with examples', async () => {
    const { stderr } = await tiny('--verbose', '--out', 'v.png');
    expect(stderr).toMatch(/plan: text_encoder: weights \d/);
    expect(stderr).toMatch(/t=500 \d+ ms \d+ GFLOP\/s/);
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
    expect((await run(['--version'])).stdout.trim()).toBe(version);
    const help = await run(['--help']);
    expect(help.code).toBe(0);
    expect(help.stdout).toMatch(/Examples:\n/);
  });

  test('named schedules, and a truncated prompt is told', async () => {
    const { code, stderr } = await run([`${'apple '.repeat(200)}`, '--stage1', TINY, '--timesteps', 'super27', '--seed', '1', '--out', 'long.png']);
    expect(code).toBe(0);
    expect(stderr).toMatch(/warning: the prompt is longer than 77 tokens; this part was cut off: ".*apple/);
    expect(stderr).toMatch(/stage1 27\/27/);
  });

  test('a reader of the progress that leaves does not cost the picture', async () => {
    const child = spawn('sh', ['-c', `"${process.execPath}" "${CLI}" x --stage1 "${TINY}" --steps 20 --seed 1 --out piped.png 2>&1 >/dev/null | head -1`], { cwd: dir, env: { ...process.env, IF_CACHE_DIR: path.join(dir, 'cache') } });
    await new Promise((resolve) => child.once('exit', resolve));
    for (let i = 0; i < 100 && !existsSync(path.join(dir, 'piped.png')); i++) await new Promise((resolve) => setTimeout(resolve, 100));
    expect(existsSync(path.join(dir, 'piped.png'))).toBe(true);
  });

  test('the embedding cache: a second run does not load the encoder', async () => {
    const env = { IF_CACHE_DIR: path.join(dir, 'cache2') };
    const args = ['a red apple', '--stage1', TINY, '--steps', '1', '--seed', '1', '--out', 'c.png'];
    expect((await run(args, env)).stderr).toMatch(/text_encoder: loading/);
    const first = await sharp(path.join(dir, 'c.png')).raw().toBuffer();
    expect((await run(args, env)).stderr).not.toMatch(/text_encoder/);
    expect(await sharp(path.join(dir, 'c.png')).raw().toBuffer()).toEqual(first);
    for (const file of readdirSync(env.IF_CACHE_DIR)) truncateSync(path.join(env.IF_CACHE_DIR, file), 100);
    expect((await run(args, env)).stderr).toMatch(/text_encoder: loading/); // damaged entries are computed anew
    expect(await sharp(path.join(dir, 'c.png')).raw().toBuffer()).toEqual(first);
    for (const file of readdirSync(env.IF_CACHE_DIR)) {
      const bytes = readFileSync(path.join(env.IF_CACHE_DIR, file));
      writeFileSync(path.join(env.IF_CACHE_DIR, file), bytes.fill(0xff, bytes.length - 8)); // NaN
    }
    expect((await run(args, env)).stderr).toMatch(/text_encoder: loading/);
    expect(await sharp(path.join(dir, 'c.png')).raw().toBuffer()).toEqual(first);
  });
});

describe('--t5-dtype', () => {
  test('int8: in the settings, with its own cache entries', async () => {
    const env = { IF_CACHE_DIR: path.join(dir, 'cache-t5') };
    const args = ['a red apple', '--stage1', TINY, '--steps', '2', '--seed', '5'];
    const draw = async (file: string, ...more: string[]): Promise<Outcome> => run([...args, ...more, '--out', file], env);
    await draw('full.png');
    const int8 = await draw('int8.png', '--t5-dtype', 'int8');
    expect(int8.code).toBe(0);
    expect(int8.stderr).toMatch(/text_encoder: loading/);
    expect(int8.stderr).toMatch(/seed 5, f32, T5 int8/);
    expect((await draw('again.png', '--t5-dtype', 'int8')).stderr).not.toMatch(/text_encoder: loading/);
    expect((await draw('bf16.png', '--t5-dtype', 'int8', '--dtype', 'bf16')).stderr).toMatch(/text_encoder: loading/);
    const stages = [{ timesteps: 2, guidance: 7, noiseLevel: 250 }];
    const settings = async (file: string): Promise<unknown> => JSON.parse((await readPngText(path.join(dir, file)))['settings']!);
    expect(await settings('int8.png')).toEqual({ dtype: 'f32', t5Dtype: 'int8', precision: 'default', stages });
    expect(await settings('full.png')).toEqual({ dtype: 'f32', precision: 'default', stages });
    const pixels = (file: string): Promise<Buffer> => sharp(path.join(dir, file)).raw().toBuffer();
    expect(await pixels('again.png')).toEqual(await pixels('int8.png'));
    expect(await pixels('full.png')).not.toEqual(await pixels('int8.png'));
  });
  test('f32 beside networks in bf16', async () => {
    await tiny('--dtype', 'bf16', '--t5-dtype', 'f32', '--out', 'mixed.png');
    expect(JSON.parse((await readPngText(path.join(dir, 'mixed.png')))['settings']!)).toMatchObject({ dtype: 'bf16', t5Dtype: 'f32' });
    await tiny('--dtype', 'bf16', '--t5-dtype', 'bf16', '--out', 'same.png');
    expect(JSON.parse((await readPngText(path.join(dir, 'same.png')))['settings']!)).not.toHaveProperty('t5Dtype');
  });
});

describe('what it refuses', () => {
  test('arguments', async () => {
    await expectRefused(run([]), 2, /missing required argument 'prompt'/);
    await expectRefused(tiny('--colour'), 2, /unknown option '--colour'/);
    await expectRefused(run(['x', '--stage1', TINY, '--steps', 'many']), 2, /expected a number/);
    await expectRefused(run(['x', '--stage1', TINY, '--steps', '0']), 2, /steps: expected a whole number from 1 to 1000, got 0/);
    await expectRefused(run(['x', '--stage1', TINY, '--timesteps', 'smart51']), 2, /did you mean "smart50"/);
    await expectRefused(run(['x', '--stage1', TINY, '--steps', '2', '--timesteps', 'smart50']), 2, /give one of them/);
    await expectRefused(run(['x', '--stage1', TINY, '--exact', '--fast']), 2, /--exact and --fast: give one of them/);
    await expectRefused(run(['x', '--stage1', TINY, '--steps', '2,3']), 2, /2 values for 1 stage/);
    await expectRefused(tiny('--seed', '-1'), 2, /seed/);
    await expectRefused(tiny('--height', '33'), 2, /height must be a multiple of 4.*got 33/);
    await expectRefused(tiny('--width', '0'), 2, /width must be a multiple of 4/);
    await expectRefused(tiny('--num-images', '0'), 2, /numImages/);
    await expectRefused(tiny('--dtype', 'f8'), 2, /Allowed choices are f32, bf16, f16/);
    await expectRefused(tiny('--dtype', 'f16'), 2, /dtype: f16 needs a GPU \(device cuda\), got cpu:0; bf16 is as small/);
    await expectRefused(tiny('--t5-dtype', 'fp8'), 2, /Allowed choices are f32, bf16, int8/);
    await expectRefused(tiny('--device', 'tpu'), 2, /expected cpu/);
    await expectRefused(tiny('--threads', '-3'), 2, /threads/);
    await expectRefused(tiny('--out', 'picture.gif'), 2, /expected FILE.png or FILE.safetensors/);
    await expectRefused(run(['x', '--stage2', TINY]), 2, /stage1: expected a folder/);
    await expectRefused(run(['x', '--stage1', TINY, '--stage2', TINY]), 2, /stage2: .* is a stage I/);
    await expectRefused(run(['x', '--stage1', golden('tiny-if-II')]), 2, /stage1: .* is an upscaling stage/);
    await expectRefused(run(['x', '--stage1', TINY, '--stage2', golden('tiny-if-II'), '--noise-level', '1000']), 2, /noise level must be an integer in \[0, 1000\)/);
  });
  test('a device that is not there', () => expectRefused(tiny('--device', 'cuda'), 1, /cuda:0 cannot be used: [^\n]+$/m));
  test('output that cannot be written', async () => {
    await expectRefused(tiny('--out', 'no/such/folder/x.png'), 1, /--out: there is no folder no\/such\/folder for no\/such\/folder\/x\.png/);
    mkdirSync(path.join(dir, 'folder.png'), { recursive: true });
    await expectRefused(tiny('--out', 'folder.png'), 1, /is a folder/);
    await expectRefused(tiny('--out', `${'x'.repeat(245)}.png`), 1, /longer than 255 bytes/);
    await expectRefused(tiny('--out', '/proc/x.png'), 1, /--out|writing \/proc/);
  });
  test('folders', async () => {
    await expectRefused(run(['x', '--stage1', 'nowhere']), 1, /nowhere: no such folder/);
    await expectRefused(run(['x', '--stage1', path.join(TINY, 'unet')]), 1, /component.*folder above/);
  });

  /** A copy of tiny-if-I with one thing changed. */
  function damaged(name: string, change: (folder: string) => void): string {
    const folder = path.join(dir, name);
    cpSync(TINY, folder, { recursive: true });
    change(folder);
    return folder;
  }
  const weights = (folder: string): string => path.join(folder, 'unet', 'diffusion_pytorch_model.safetensors');
  const damagedRun = (folder: string): Promise<Outcome> => run(['x', '--stage1', folder, '--steps', '1']);

  test('missing, truncated and corrupt files', async () => {
    await expectRefused(damagedRun(damaged('no-weights', (f) => rmSync(weights(f)))), 1, /expected diffusion_pytorch_model\.safetensors/);
    await expectRefused(damagedRun(damaged('truncated', (f) => truncateSync(weights(f), 100_000))), 1, /truncated\/unet/);
    await expectRefused(damagedRun(damaged('empty', (f) => truncateSync(weights(f), 0))), 1, /empty\/unet/);
    await expectRefused(damagedRun(damaged('header', (f) => writeFileSync(weights(f), Buffer.from('ffffffffffffff7f7b7d', 'hex')))), 1, /header\/unet/);
    await expectRefused(damagedRun(damaged('bad-json', (f) => writeFileSync(path.join(f, 'unet', 'config.json'), '{ "sample_size": 32, '))), 1, /bad-json\/unet\/config\.json/);
    await expectRefused(damagedRun(damaged('unsupported', (f) => edit(f, (c) => { c['act_fn'] = 'relu'; }))), 1, /act_fn/);
    await expectRefused(damagedRun(damaged('no-tokenizer', (f) => rmSync(path.join(f, 'tokenizer'), { recursive: true }))), 1, /has no tokenizer folder/);
  });
  test('weights that do not fit the configuration: all of them in one error', async () => {
    const folder = damaged('misfit', (f) => edit(f, (c) => { c['cross_attention_dim'] = 32; c['class_embed_type'] = null; }));
    await expectRefused(damagedRun(folder), 1, /encoder_hid_proj\.weight.*add_k_proj/s);
  });
  test('NaN weights', async () => {
    const folder = damaged('nan', (f) => {
      const bytes = readFileSync(weights(f));
      bytes.writeUInt16LE(0x7e00, bytes.length - 2); // the last float16
      writeFileSync(weights(f), bytes);
    });
    await expectRefused(damagedRun(folder), 1, /not finite|NaN/);
  });

  function edit(folder: string, change: (config: Record<string, unknown>) => void): void {
    const file = path.join(folder, 'unet', 'config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    change(config);
    writeFileSync(file, JSON.stringify(config));
  }

  test('an empty prompt draws, a 10,000-word prompt is cut', async () => {
    expect((await run(['', '--stage1', TINY, '--steps', '1', '--out', 'empty.png'])).code).toBe(0);
    const long = await run([Array.from({ length: 10_000 }, (_, i) => `word${i % 97}`).join(' '), '--stage1', TINY, '--steps', '1', '--out', 'words.png']);
    expect(long.code).toBe(0);
    expect(long.stderr.length).toBeLessThan(2000);
  });
});

test('Ctrl-C stops within a second and leaves nothing half-written', async () => {
  const child = spawn(process.execPath, [CLI, 'x', '--stage1', path.resolve('models/if-emoji'), '--num-images', '64', '--steps', '1000', '--out', 'never.png'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, IF_CACHE_DIR: path.join(dir, 'cache') } });
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
  while (child.exitCode === null && !/stage1: loading/.test(stderr)) await new Promise((resolve) => setTimeout(resolve, 50));
  await new Promise((resolve) => setTimeout(resolve, 500));
  const started = performance.now();
  child.kill('SIGINT');
  const code = await new Promise((resolve) => child.once('exit', resolve));
  expect(performance.now() - started).toBeLessThan(1000);
  expect(code).toBe(130);
  expect(stderr).toMatch(/interrupted/);
  expect(existsSync(path.join(dir, 'never.png'))).toBe(false);
});
