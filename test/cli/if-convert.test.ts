// The command as a user meets it: what it prints and writes, and one clear line for everything that can be wrong.
import { execFile, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { InspectReport } from '../../lib/weights/inspect.js';
import { golden } from '../support/safetensors.js';
import { PickleStream, torchFile } from '../support/torch-file.js';

const CLI = path.resolve('dist/cli/if-convert.js');
let dir: string;
beforeAll(() => { dir = mkdtempSync(path.join(os.tmpdir(), 'if-convert-cli-')); });
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const at = (...parts: string[]): string => path.join(dir, ...parts);

interface Outcome { code: number; stdout: string; stderr: string }
function run(args: string[], cli = CLI): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, ...args], { cwd: dir, env: { ...process.env, IF_CACHE_DIR: at('cache') } }, (error, stdout, stderr) => {
      resolve({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr });
    });
  });
}
/** One line on stderr that matches, no stack, the exit code, and nothing written. */
async function expectRefused(args: string[], code: number, message: RegExp): Promise<void> {
  const before = readdirSync(dir);
  const outcome = await run(args);
  expect(outcome.stderr).toMatch(message);
  expect(outcome.code).toBe(code);
  expect(outcome.stdout).toBe('');
  expect(outcome.stderr).not.toMatch(/^\s+at /m);
  expect(outcome.stderr.trim().split('\n').filter((line) => !/^(Usage|Options|.*: writing)/.test(line)).length).toBeLessThanOrEqual(1);
  expect(readdirSync(dir)).toEqual(before);
}

describe('conversions', () => {
  test('original → diffusers → original, and the pictures that both draw', async () => {
    expect(await run(['original-to-diffusers', golden('original', 'I'), 'one'])).toMatchObject({ code: 0, stdout: 'one\n', stderr: expect.stringMatching(/^one: writing \d+ MB\n$/) as string });
    expect(await run(['diffusers-to-original', 'one/unet', 'two'])).toMatchObject({ code: 0, stdout: 'two\n' });
    expect(readdirSync(at('two')).sort()).toEqual(['config.yml', 'pytorch_model.bin']);
    // stage I with the text encoder of tiny-if-I: the same picture from the float16 and the float32 file
    const pictures: Buffer[] = [];
    for (const [name, ...options] of [['three', '--dtype', 'f32', '--max-shard-size', '200kB'], ['four']] as [string, ...string[]][]) {
      expect((await run(['original-to-diffusers', 'two', name, '--text-encoder', golden('tiny-if-I'), ...options])).code).toBe(0);
      const drawn = await run(['a red apple', '--stage1', name, '--steps', '2', '--seed', '1', '--out', `${name}.safetensors`], path.resolve('dist/cli/if-sample.js'));
      expect(drawn.stderr).toMatch(/stage1 2\/2/);
      pictures.push(readFileSync(at(`${name}.safetensors`)));
    }
    expect(pictures[0]!.equals(pictures[1]!)).toBe(true);
  });

  test('dtype and safetensors, of folders and files; --force', async () => {
    expect(await run(['dtype', golden('tiny-if-II'), 'half', '--dtype', 'bf16'])).toMatchObject({ code: 0, stdout: 'half\n' });
    await expectRefused(['dtype', golden('tiny-if-II'), 'half', '--dtype', 'f32'], 1, /^if-convert: writing .*half: it is there already; pass --force to replace it\n$/);
    const size = statSync(at('half', 'unet', 'diffusion_pytorch_model.safetensors')).size;
    expect((await run(['dtype', golden('tiny-if-II'), 'half', '--dtype', 'f32', '--force'])).code).toBe(0);
    expect(statSync(at('half', 'unet', 'diffusion_pytorch_model.safetensors')).size).toBeGreaterThan(1.9 * size);
    expect((await run(['safetensors', golden('original', 'I', 'pytorch_model.bin'), 'weights.safetensors'])).code).toBe(0);
    const report = JSON.parse((await run(['inspect', 'weights.safetensors', '--json'])).stdout) as InspectReport;
    expect(report).toMatchObject({ kind: 'safetensors', metadata: { format: 'pt' }, components: [{ total: { tensors: 173 } }] });
  });

  test('publish: a checkpoint of if-train', async () => {
    const files = { 'unet.safetensors': golden('tiny-if-I', 'unet', 'diffusion_pytorch_model.safetensors') };
    const text = (...parts: string[]): string => readFileSync(golden('tiny-if-I', ...parts), 'utf8');
    mkdirSync(at('run', 'checkpoints', 'step-000007'), { recursive: true });
    for (const [name, from] of Object.entries(files)) cpSync(from, at('run', 'checkpoints', 'step-000007', name));
    writeFileSync(at('run', 'checkpoints', 'step-000007', 'state.json'), JSON.stringify({
      format: 1, step: 7, data: {}, files: { 'unet.safetensors': statSync(files['unet.safetensors']).size },
      config: { model: { folder: golden('tiny-if-I'), trainTextEncoder: false }, ema: false, saveDtype: 'f16', stage: 1, objective: { prediction: 'epsilon', variance: 'fixed' } },
      pipeline: { 'unet/config.json': text('unet', 'config.json'), 'scheduler/scheduler_config.json': text('scheduler', 'scheduler_config.json'), 'model_index.json': text('model_index.json') },
    }));
    expect(await run(['publish', 'run', 'published'])).toMatchObject({ code: 0, stdout: 'published\n' });
    const { components } = JSON.parse((await run(['inspect', 'published', '--json'])).stdout) as InspectReport;
    expect(components.map(({ name }) => name).sort()).toEqual(['scheduler', 'text_encoder', 'tokenizer', 'unet']);
    const { metadata } = JSON.parse((await run(['inspect', at('published', 'unet', 'diffusion_pytorch_model.safetensors'), '--json'])).stdout) as InspectReport;
    expect(metadata).toMatchObject({ format: 'pt', 'if.steps': '7', 'if.variance': 'fixed', 'if.weights': 'last' });
    await expectRefused(['publish', golden('tiny-if-I'), 'x'], 1, /expected a checkpoint \(state\.json\)/);
  });

  test('Ctrl-C leaves nothing half-written', async () => {
    const child = spawn(process.execPath, [CLI, 'dtype', golden('tiny-if-I'), 'never', '--dtype', 'f32', '--max-shard-size', '1kB'], { // a file, flushed to the disk, per tensor: slow
      cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (data: Buffer) => {
      if (stderr === '' && /writing/.test(data.toString())) child.kill('SIGINT'); // once: a second one ends it at once
      stderr += data.toString();
    });
    const code = await new Promise((resolve) => child.once('exit', resolve));
    expect(code).toBe(130);
    expect(stderr).toMatch(/interrupted/);
    expect(existsSync(at('never'))).toBe(false);
    expect(readdirSync(dir).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

describe('inspect', () => {
  test('a pipeline: classes, counts, types, sizes; JSON has the configuration', async () => {
    const { code, stdout } = await run(['inspect', golden('tiny-if-I')]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/tiny-if-I: diffusers pipeline, IFPipeline/);
    expect(stdout).toMatch(/unet {2}UNet2DConditionModel\n {2}files: diffusion_pytorch_model\.safetensors\n {2}1,070,\d{3} parameters in 301 tensors, 2\.141 MB\n {2}all f16\n {2}config: .*block_out_channels \[32,32,64\]/);
    expect(stdout).toMatch(/text_encoder {2}T5EncoderModel\n.*\n {2}260,\d{3} parameters in 30 tensors/);
    expect(stdout.match(/complete: every tensor/g)).toHaveLength(2);
    const report = JSON.parse((await run(['inspect', golden('tiny-if-I'), '--json'])).stdout) as InspectReport;
    expect(report.components.find(({ name }) => name === 'unet')!.config).toMatchObject({ sample_size: 32, act_fn: 'gelu' });
  });

  test('what is missing, unexpected or damaged: exit code 1', async () => {
    cpSync(golden('tiny-if-I'), at('bad'), { recursive: true });
    const config = JSON.parse(readFileSync(at('bad', 'unet', 'config.json'), 'utf8')) as object;
    writeFileSync(at('bad', 'unet', 'config.json'), JSON.stringify({ ...config, class_embed_type: 'timestep', cross_attention_dim: 32, only_cross_attention: true }));
    truncateSync(at('bad', 'text_encoder', 'model.safetensors'), 1000);
    rmSync(at('bad', 'tokenizer'), { recursive: true });
    const { code, stdout } = await run(['inspect', 'bad']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/4 missing: class_embedding\.linear_1\.weight, class_embedding\.linear_1\.bias/);
    expect(stdout).toMatch(/\d+ unexpected: .*to_k/);
    expect(stdout).toMatch(/\d+ of another shape or type: .*encoder_hid_proj\.weight \(expected \(32, 64\), got \(64, 64\) f16\)/);
    expect(stdout).toMatch(/text_encoder {2}T5EncoderModel[^]*problem: .*model\.safetensors/);
    expect(stdout).toMatch(/tokenizer {2}T5Tokenizer[^]*problem: .*the folder is missing/);
  });

  test('an original checkpoint, a component, archives', async () => {
    expect((await run(['inspect', golden('original', 'II')])).stdout).toMatch(/checkpoint of the original IF code[^]*219 tensors[^]*complete/);
    expect((await run(['inspect', golden('unet_cross_only')])).stdout).toMatch(/component of a pipeline[^]*complete/);
    const types = (await run(['inspect', golden('torch', 'types.pt')])).stdout;
    expect(types).toMatch(/torch archive[^]*in 21 tensors[^]*i64: 48 parameters in 2 tensors/);
    const hub = await run(['inspect', golden('torch', 'message_hub.pth')]);
    expect(hub.stdout).toMatch(/state_dict\n.*\n {2}12 parameters in 1 tensors[^]*contents\n {2}meta: a dict of 5\n[^]*message_hub: a dict of 3/);
    expect(hub.code).toBe(0);
  });

  test('LoRA adapters', async () => {
    const { code, stdout } = await run(['inspect', golden('training', 'lora_peft')]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/lora_peft: LoRA adapter\n\nunet\n {2}[\d,]+ parameters in 84 tensors, [\d.]+ kB\n {2}all f32\n\nrank 4, alpha 8, 42 modules: down_blocks\.1/);
    expect(JSON.parse((await run(['inspect', golden('training', 'lora_diffusers'), '--json'])).stdout)).toMatchObject({ kind: 'lora', lora: { ranks: [4], alphas: [4] } });
  });
});

describe('what it refuses', () => {
  test('arguments', async () => {
    await expectRefused(['frobnicate'], 2, /unknown command 'frobnicate'/);
    await expectRefused(['dtype', 'a', 'b'], 2, /required option '--dtype <type>' not specified/);
    await expectRefused(['dtype', 'a', 'b', '--dtype', 'f8'], 2, /Allowed choices are f32, bf16, f16/);
    await expectRefused(['diffengine', 'a', 'b'], 2, /required option '--base <dir>'/);
    await expectRefused(['diffengine', 'a', 'b', '--base', 'c', '--save-keys', 'vae'], 2, /Allowed choices are unet, text_encoder/);
    await expectRefused(['safetensors', 'a'], 2, /missing required argument 'out'/);
    for (const size of ['0', 'large', '-1GB', '5XB']) await expectRefused(['safetensors', 'a', 'b', `--max-shard-size=${size}`], 2, /expected a size as 10GB/);
    await expectRefused(['safetensors', golden('original', 'I', 'pytorch_model.bin'), 'x.bin'], 2, /must be FILE\.safetensors/);
    await expectRefused(['safetensors', golden('tiny-if-I'), path.join(golden('tiny-if-I'), 'new')], 2, /choose another place/);
  });
  test('a file that would run code', async () => {
    writeFileSync(at('evil.bin'), torchFile(new PickleStream().global('os', 'system').mark().text(`touch ${at('pwned')}`).tuple().reduce().stop()));
    cpSync(golden('original', 'I', 'config.yml'), at('config.yml'));
    for (const args of [['inspect', 'evil.bin'], ['safetensors', 'evil.bin', 'x.safetensors']]) await expectRefused(args, 1, /evil\.bin: it refers to os\.system, which is not part of a state dict/);
    expect(existsSync(at('pwned'))).toBe(false);
    rmSync(at('config.yml'));
  });
  test('what is not there, and what is no model', async () => {
    await expectRefused(['inspect', 'nowhere'], 1, /nowhere: no such file or folder/);
    await expectRefused(['original-to-diffusers', 'nowhere', 'x'], 1, /config\.yml: no such file/);
    await expectRefused(['diffusers-to-original', 'nowhere', 'x'], 1, /nowhere: no such folder/);
    await expectRefused(['inspect', golden('tokenizer', 'dir')], 1, /expected model_index\.json, config\.json or config\.yml/);
    await expectRefused(['safetensors', golden('tokenizer', 'dir'), 'x'], 1, /expected a model/);
  });
});

test('--help and --version', async () => {
  const help = await run(['--help']);
  expect(help.code).toBe(0);
  expect(help.stdout).toMatch(/Examples:\n/);
  for (const name of ['original-to-diffusers', 'diffusers-to-original', 'diffengine', 'publish', 'dtype', 'safetensors', 'inspect']) expect(help.stdout).toMatch(new RegExp(`^ {2}${name} `, 'm'));
  expect((await run(['dtype', '--help'])).stdout).toMatch(/--max-shard-size <size>/);
  expect((await run(['--version'])).stdout.trim()).toBe((JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version);
});
