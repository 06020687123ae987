// Whole conversions: bit for bit there and back, and the networks compute what was recorded.
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { addon } from '../../lib/addon.js';
import { parseUNetConfig, readJson } from '../../lib/models/config.js';
import { UNet } from '../../lib/models/unet.js';
import { unetConfigJson } from '../../lib/models/unet-config-json.js';
import { Tensor } from '../../lib/tensor.js';
import { diffusersToOriginal, originalToDiffusers } from '../../lib/weights/convert.js';
import { diffengineToDiffusers } from '../../lib/weights/diffengine.js';
import { findWeights, resolveStage } from '../../lib/weights/folder.js';
import { inspect, isSound } from '../../lib/weights/inspect.js';
import { parseOriginalConfig } from '../../lib/weights/original-config.js';
import { rewriteModel } from '../../lib/weights/rewrite.js';
import { openSafetensors, openStateDict, type TensorSource } from '../../lib/weights/tensor-source.js';
import { writeStateDict } from '../../lib/weights/torch-archive-writer.js';
import { maxAbsoluteError, relativeError } from '../support/compare.js';
import { expectIFError } from '../support/expect-error.js';
import { floats, golden, readSafetensors, type GoldenTensor } from '../support/safetensors.js';
import { PickleStream, torchFile } from '../support/torch-file.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-convert-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const at = (...parts: string[]): string => path.join(dir, ...parts);
const WEIGHTS = 'diffusion_pytorch_model.safetensors';
const json = (file: string): unknown => JSON.parse(readFileSync(file, 'utf8'));

/** Name, type, shape and a hash of the bytes of every tensor, by name. */
async function fingerprints(opened: Promise<TensorSource>): Promise<Map<string, string>> {
  const source = await opened;
  const out = new Map<string, string>();
  for (const [name, { dtype, shape }] of source.specs) out.set(name, `${dtype} ${shape.join()} ${createHash('sha256').update(await source.read(name)).digest('hex')}`);
  await source.close();
  return new Map([...out].sort(([a], [b]) => (a < b ? -1 : 1)));
}
const archive = (file: string): Promise<Map<string, string>> => fingerprints(openStateDict(file));
const safetensors = (file: string): Promise<Map<string, string>> => fingerprints(openSafetensors(file));
const expectSameFile = (a: string, b: string): void => expect(readFileSync(a).equals(readFileSync(b)), `${a} and ${b} are the same`).toBe(true);

/** Loads the UNet of a folder and runs it on the recorded input of the original checkpoint of that stage. */
async function forwardError(folder: string, stage: 'I' | 'II'): Promise<number> {
  const io = readSafetensors(golden('original', `${stage}_io.safetensors`));
  const config = parseUNetConfig(await readJson(path.join(folder, 'config.json')), folder);
  const unet = await UNet.load(config, (await findWeights(folder, 'unet')).files, { dtype: 'f32', device: 'cpu', precision: 'exact' });
  const tensor = (name: string): Tensor => Tensor.from(floats(io, name), io.get(name)!.shape, 'cpu');
  const images = (name: string): Promise<Tensor> => Tensor.fromImages({ data: floats(io, name), shape: io.get(name)!.shape as [number, number, number, number] }, 'cpu');
  const cond = await unet.prepare(tensor('encoder_hidden_states'));
  let sample = await images('sample');
  if (stage === 'II') {
    const [, , height, width] = io.get('sample')!.shape as [number, number, number, number];
    const low = new Tensor(await addon.bilinear((await images('low_res')).handle, height, width));
    sample = await joinChannels(sample, low);
  }
  const timesteps = [...io.get('timestep.i64')!.data as BigInt64Array].map(Number);
  const out = await unet.forward(sample, timesteps, cond, stage === 'II' ? [250, 250] : undefined); // aug_level 0.25
  const { data } = await out.toImages();
  unet.dispose();
  return relativeError(data, floats(io, 'out'));
}

/** (N, C, H, W) pictures side by side in the channels. */
async function joinChannels(a: Tensor, b: Tensor): Promise<Tensor> {
  const [x, y] = [await a.toImages(), await b.toImages()];
  const [n, c, h, w] = x.shape;
  const data = new Float32Array(2 * n * c * h * w);
  for (let i = 0; i < n; i++) {
    data.set(x.data.subarray(i * c * h * w, (i + 1) * c * h * w), 2 * i * c * h * w);
    data.set(y.data.subarray(i * c * h * w, (i + 1) * c * h * w), (2 * i + 1) * c * h * w);
  }
  return Tensor.fromImages({ data, shape: [n, 2 * c, h, w] }, 'cpu');
}

describe.each(['I', 'II'] as const)('original checkpoint %s', (stage) => {
  test('→ diffusers → original → diffusers, bit for bit', async () => {
    await originalToDiffusers(golden('original', stage), at('a'));
    await diffusersToOriginal(at('a'), at('b'));
    await originalToDiffusers(at('b'), at('c'));
    expect(await archive(at('b', 'pytorch_model.bin'))).toEqual(await archive(golden('original', stage, 'pytorch_model.bin')));
    expect(parse(readFileSync(at('b', 'config.yml'), 'utf8'))).toEqual(parse(readFileSync(golden('original', stage, 'config.yml'), 'utf8')));
    for (const file of [`unet/${WEIGHTS}`, 'unet/config.json', 'model_index.json', 'scheduler/scheduler_config.json']) expectSameFile(at('a', file), at('c', file));
    expect(readdirSync(dir).sort()).toEqual(['a', 'b', 'c']); // no temporary folder is left
  });

  test('the converted network computes what the original code computed', async () => {
    await originalToDiffusers(golden('original', stage), at('a'));
    expect(await forwardError(at('a', 'unet'), stage)).toBeLessThan(1e-5); // golden/README.md: as UNet
  });

  test('the folder is a pipeline that is loaded and complete', async () => {
    await originalToDiffusers(golden('original', stage), at('a'));
    const folder = await resolveStage(at('a'));
    expect(folder.kind).toBe(stage === 'I' ? 'base' : 'super_resolution');
    expect(folder.textEncoder).toBeUndefined();
    const recorded = golden(stage === 'I' ? 'tiny-if-I' : 'tiny-if-II');
    const schedulers = stage === 'I' ? ['scheduler'] : ['scheduler', 'image_noising_scheduler'];
    for (const name of schedulers) expect(json(at('a', name, 'scheduler_config.json'))).toEqual(json(path.join(recorded, name, 'scheduler_config.json')));
    expect(json(at('a', 'model_index.json'))).toEqual({ ...json(path.join(recorded, 'model_index.json')) as object, text_encoder: [null, null], tokenizer: [null, null] });
    const report = await inspect(at('a'));
    expect(isSound(report)).toBe(true);
    expect(report.components.find(({ name }) => name === 'unet')!.differences).toEqual({ missing: [], unexpected: [], misshapen: [] });
  });
});

test('diffusers → original → diffusers, bit for bit: another network, in shards', async () => {
  const config = parseOriginalConfig(stringify({ params: {
    in_channels: 6, model_channels: 32, out_channels: 6, num_res_blocks: [1, 2, 1], attention_resolutions: '32,16', disable_self_attentions: '32', activation: 'silu', encoder_dim: 96,
    att_pool_heads: 4, encoder_channels: 64, image_size: 64, channel_mult: '1,2,3', num_head_channels: 32, use_scale_shift_norm: true, resblock_updown: true, efficient_activation: true, scale_skip_connection: true,
  } }), 'x');
  mkdirSync(at('a', 'unet'), { recursive: true });
  await addon.writeRandomWeights('unet', JSON.stringify(config), 'bf16', at('a', 'unet', 'diffusion_pytorch_model'), 1e9);
  writeFileSync(at('a', 'unet', 'config.json'), JSON.stringify(unetConfigJson(config)));
  await diffusersToOriginal(at('a'), at('b'));
  await originalToDiffusers(at('b'), at('c'), { maxShardBytes: 1e6 });
  await rewriteModel(at('c', 'unet'), at('d'));
  expect(readdirSync(at('c', 'unet')).length).toBeGreaterThan(4);
  expect(await safetensors(at('d', WEIGHTS))).toEqual(await safetensors(at('a', 'unet', WEIGHTS)));
  expect(json(at('c', 'unet', 'config.json'))).toEqual(json(at('a', 'unet', 'config.json')));
  expect(json(at('c', 'unet', 'config.json'))).toMatchObject({ only_cross_attention: [false, true, false], mid_block_only_cross_attention: null });
});

describe('types', () => {
  const values = (tensor: GoldenTensor): ArrayLike<number> => tensor.data as Float32Array;

  test('float16 → float32 → float16 is the same file', async () => {
    await rewriteModel(golden('tiny-if-I'), at('wide'), { dtype: 'f32' });
    await rewriteModel(at('wide'), at('back'), { dtype: 'f16' });
    const wide = readSafetensors(at('wide', 'unet', WEIGHTS));
    for (const [name, tensor] of readSafetensors(golden('tiny-if-I', 'unet', WEIGHTS))) {
      expect(wide.get(name)!.dtype).toBe('F32');
      expect(maxAbsoluteError(values(wide.get(name)!), values(tensor))).toBe(0);
    }
    for (const file of [`unet/${WEIGHTS}`, 'text_encoder/model.safetensors']) expectSameFile(at('back', file), golden('tiny-if-I', file));
    expect(json(at('wide', 'text_encoder', 'config.json'))).toMatchObject({ dtype: 'float32' });
    expect(readdirSync(at('back')).sort()).toEqual(readdirSync(golden('tiny-if-I')).sort());
  });

  test('bfloat16 is rounded to nearest', async () => {
    await rewriteModel(golden('unet_cross_only'), at('b'), { dtype: 'bf16' });
    const rounded = readSafetensors(at('b', WEIGHTS));
    const round = (x: number): number => { // half to even, on the bits
      const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
      return new Float32Array(Uint32Array.of(((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0).buffer)[0]!;
    };
    for (const [name, tensor] of readSafetensors(golden('unet_cross_only', WEIGHTS))) expect(maxAbsoluteError(values(rounded.get(name)!), Float32Array.from(values(tensor), round))).toBe(0);
  });

  test('a value that float16 does not hold is refused, and nothing is left', async () => {
    const bytes = Buffer.from(Float32Array.of(1, 70_000).buffer);
    await writeStateDict(at('x.bin'), [{ name: 'large', dtype: 'f32', shape: [2], read: async () => ({ bytes, dtype: 'f32' }) }]);
    await rewriteModel(at('x.bin'), at('x.safetensors'), { dtype: 'bf16' });
    await expectIFError('WEIGHTS', () => rewriteModel(at('x.bin'), at('y.safetensors'), { dtype: 'f16' }), '"large"', '65504', 'bf16');
    expect(readdirSync(dir).sort()).toEqual(['x.bin', 'x.safetensors']);
  });

  test('integers are kept, other types are refused by name', async () => {
    await expectIFError('UNSUPPORTED', () => rewriteModel(golden('torch', 'types.pt'), at('x.safetensors'), { dtype: 'f16' }), '"f64" is f64');
    const bytes = Buffer.from('0102', 'hex');
    await writeStateDict(at('x.bin'), [{ name: 'n', dtype: 'u8', shape: [2], read: async () => ({ bytes, dtype: 'u8' }) }]);
    await rewriteModel(at('x.bin'), at('x.safetensors'), { dtype: 'f16' });
    expect(readSafetensors(at('x.safetensors')).get('n')).toMatchObject({ dtype: 'U8', shape: [2] });
  });
});

describe('safetensors of torch archives', () => {
  /** tiny-if-I with its weights as .bin: the UNet in one file, the text encoder in two with an index, under both names of the table. */
  async function binFolder(): Promise<string> {
    cpSync(golden('tiny-if-I'), at('bin'), { recursive: true });
    for (const [component, base, shards] of [['unet', 'diffusion_pytorch_model', 1], ['text_encoder', 'pytorch_model', 2]] as const) {
      const file = readdirSync(at('bin', component)).find((name) => name.endsWith('.safetensors'))!;
      const source = await openSafetensors(at('bin', component, file));
      const tensors = [...source.specs.values()].map((spec) => ({ ...spec, read: async () => ({ bytes: await source.read(spec.name), dtype: spec.dtype }) }));
      if (shards === 2) tensors.push({ ...tensors.find(({ name }) => name === 'shared.weight')!, name: 'encoder.embed_tokens.weight' });
      const half = Math.ceil(tensors.length / shards);
      const map: Record<string, string> = {};
      for (let i = 0; i < shards; i++) {
        const name = shards === 1 ? `${base}.bin` : `${base}-0000${i + 1}-of-00002.bin`;
        await writeStateDict(at('bin', component, name), tensors.slice(i * half, (i + 1) * half));
        for (const tensor of tensors.slice(i * half, (i + 1) * half)) map[tensor.name] = name;
      }
      if (shards === 2) writeFileSync(at('bin', component, `${base}.bin.index.json`), JSON.stringify({ metadata: {}, weight_map: map }));
      await source.close();
      rmSync(at('bin', component, file));
    }
    return at('bin');
  }

  test('the same bytes as before', async () => {
    const bin = await binFolder();
    await expectIFError('UNSUPPORTED', () => findWeights(path.join(bin, 'unet'), 'unet'), 'diffusion_pytorch_model.bin', 'if-convert safetensors');
    expect(isSound(await inspect(bin))).toBe(true);
    await rewriteModel(bin, at('out'));
    for (const file of [`unet/${WEIGHTS}`, 'text_encoder/model.safetensors', 'model_index.json', 'unet/config.json', 'tokenizer/tokenizer.json']) expectSameFile(at('out', file), golden('tiny-if-I', file));
    expect(readdirSync(at('out', 'text_encoder')).sort()).toEqual(['config.json', 'model.safetensors']);
  });

  test('a component folder, and a variant', async () => {
    cpSync(golden('unet_cross_only'), at('in'), { recursive: true });
    cpSync(at('in', WEIGHTS), at('in', 'diffusion_pytorch_model.fp16.safetensors'));
    rmSync(at('in', WEIGHTS));
    await rewriteModel(at('in'), at('out'), { variant: 'fp16' });
    expectSameFile(at('out', WEIGHTS), golden('unet_cross_only', WEIGHTS));
    await expectIFError('NOT_FOUND', () => rewriteModel(at('in'), at('out2'), { variant: 'bf16' }), 'bf16');
  });
});

describe('the text encoder of a converted checkpoint', () => {
  test('from a pipeline folder, or from one folder with everything', async () => {
    mkdirSync(at('t5'));
    for (const name of ['config.json', 'model.safetensors']) cpSync(golden('tiny-if-I', 'text_encoder', name), at('t5', name));
    for (const name of readdirSync(golden('tiny-if-I', 'tokenizer'))) cpSync(golden('tiny-if-I', 'tokenizer', name), at('t5', name));
    for (const [out, textEncoder] of [['a', golden('tiny-if-I')], ['b', at('t5')]] as const) {
      await originalToDiffusers(golden('original', 'I'), at(out), { textEncoder });
      for (const file of ['text_encoder/config.json', 'text_encoder/model.safetensors', 'tokenizer/tokenizer.json', 'model_index.json']) expectSameFile(at(out, file), golden('tiny-if-I', file));
      expect(readdirSync(at(out, 'text_encoder')).sort()).toEqual(['config.json', 'model.safetensors']);
      expect(isSound(await inspect(at(out)))).toBe(true);
    }
  });
  test('one that does not fit', async () => {
    await expectIFError('INVALID_ARGUMENT', () => originalToDiffusers(golden('original', 'I'), at('a'), { textEncoder: path.resolve('models', 'if-emoji') }), 'width 128', '64');
    await expectIFError('NOT_FOUND', () => originalToDiffusers(golden('original', 'I'), at('a'), { textEncoder: golden('tiny-if-I', 'text_encoder') }), 'spiece.model');
    await expectIFError('NOT_FOUND', () => originalToDiffusers(golden('original', 'I'), at('a'), { textEncoder: at('none') }), 'no such folder');
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe('shards', () => {
  test('as diffusers writes them, and read back', async () => {
    await rewriteModel(golden('tiny-if-II', 'unet'), at('out'), { maxShardBytes: 200_000 });
    const names = readdirSync(at('out')).sort();
    const index = json(at('out', `${WEIGHTS}.index.json`)) as { metadata: { total_size: number }; weight_map: Record<string, string> };
    const shards = names.filter((name) => name.includes('-of-'));
    expect(shards.length).toBeGreaterThan(3);
    expect(shards).toEqual(shards.map((_, i) => `diffusion_pytorch_model-${String(i + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`));
    const whole = await safetensors(golden('tiny-if-II', 'unet', WEIGHTS));
    expect(Object.keys(index.weight_map)).toEqual([...whole.keys()]);
    expect(index.metadata).toEqual({ total_size: [...readSafetensors(golden('tiny-if-II', 'unet', WEIGHTS)).values()].reduce((sum, { shape }) => sum + 2 * shape.reduce((a, b) => a * b, 1), 0) });
    const joined = new Map<string, string>();
    for (const shard of shards) for (const [name, bytes] of await safetensors(at('out', shard))) {
      expect(index.weight_map[name]).toBe(shard);
      joined.set(name, bytes);
    }
    expect(new Map([...joined].sort(([a], [b]) => (a < b ? -1 : 1)))).toEqual(whole);
    expect((await findWeights(at('out'), 'unet')).files).toHaveLength(shards.length);
  });
});

describe('diffengine', () => {
  /** An mmengine checkpoint: state_dict with the tiny UNet under unet.…, and the objects beside it that are kept opaque. */
  async function checkpoint(prefix = 'unet.', drop?: string): Promise<string> {
    const tensors = readSafetensors(golden('tiny-if-I', 'unet', WEIGHTS));
    const source = await openSafetensors(golden('tiny-if-I', 'unet', WEIGHTS));
    const storages: Record<string, Buffer> = {};
    const p = new PickleStream().emptyDict().mark();
    p.text('meta').emptyDict().mark().text('epoch').int(3).setItems();
    p.text('message_hub').global('mmengine.logging.history_buffer', 'HistoryBuffer').emptyTuple().raw(0x81).emptyDict().build();
    p.text('state_dict').emptyDict().mark();
    for (const [i, [name, { shape }]] of [...tensors].entries()) {
      if (name === drop) continue;
      storages[i] = await source.read(name);
      storages[i]![0]! ^= 1; // the last bit of the first value is another than the base's
      const stride = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
      p.text(`${prefix}${name}`).tensor(String(i), { storage: 'HalfStorage', shape, stride });
    }
    await source.close();
    p.setItems().setItems();
    writeFileSync(at('epoch_3.pth'), torchFile(p.stop(), storages));
    return at('epoch_3.pth');
  }

  test('a whole pipeline folder: the trained UNet, the rest of the base', async () => {
    await diffengineToDiffusers(await checkpoint(), golden('tiny-if-I'), at('out'));
    const [written, base] = [await openSafetensors(at('out', 'unet', WEIGHTS)), await openSafetensors(golden('tiny-if-I', 'unet', WEIGHTS))];
    for (const name of base.specs.keys()) {
      const expected = Buffer.from(await base.read(name));
      expected[0]! ^= 1;
      expect((await written.read(name)).equals(expected), name).toBe(true);
    }
    expect([...written.specs.keys()].sort()).toEqual([...base.specs.keys()].sort());
    await Promise.all([written.close(), base.close()]);
    for (const file of ['text_encoder/model.safetensors', 'tokenizer/tokenizer.json', 'unet/config.json']) expectSameFile(at('out', file), golden('tiny-if-I', file));
    expect(json(at('out', 'scheduler', 'scheduler_config.json'))).toEqual({ ...json(golden('tiny-if-I', 'scheduler', 'scheduler_config.json')) as object, variance_type: 'fixed_small' });
    expect(isSound(await inspect(at('out')))).toBe(true);
  });

  test('the UNet alone, in another type', async () => {
    await diffengineToDiffusers(await checkpoint(), golden('tiny-if-I'), at('out'), { saveKeys: ['unet'], dtype: 'bf16' });
    expect(readdirSync(at('out')).sort()).toEqual(['model_index.json', 'scheduler', 'unet']);
    expect(json(at('out', 'model_index.json'))).toMatchObject({ text_encoder: [null, null], tokenizer: [null, null], unet: ['diffusers', 'UNet2DConditionModel'] });
    expect(readSafetensors(at('out', 'unet', WEIGHTS)).get('conv_in.bias')!.dtype).toBe('BF16');
  });

  test('checkpoints that do not fit', async () => {
    await expectIFError('WEIGHTS', async () => diffengineToDiffusers(await checkpoint('unet.', 'conv_in.bias'), golden('tiny-if-I'), at('out')), '1 missing: conv_in.bias');
    await expectIFError('WEIGHTS', async () => diffengineToDiffusers(await checkpoint(), golden('tiny-if-II'), at('out')), 'class_embedding.linear_1.weight');
    await expectIFError('UNSUPPORTED', async () => diffengineToDiffusers(await checkpoint('unet.base_model.model.'), golden('tiny-if-I'), at('out')), 'PEFT adapter of the unet');
    await expectIFError('FILE_FORMAT', async () => diffengineToDiffusers(await checkpoint('net.'), golden('tiny-if-I'), at('out')), 'expected tensors called unet.…');
    await expectIFError('NOT_FOUND', async () => diffengineToDiffusers(await checkpoint(), at('none'), at('out')), 'no such folder');
    expect(existsSync(at('out'))).toBe(false);
  });
});

describe('the output', () => {
  test('is never overwritten without force, and only a model is replaced', async () => {
    mkdirSync(at('empty'));
    await originalToDiffusers(golden('original', 'I'), at('empty')); // an empty folder has nothing to lose
    await expectIFError('IO', () => originalToDiffusers(golden('original', 'II'), at('empty')), 'there already', '--force');
    const before = readFileSync(at('empty', 'unet', WEIGHTS));
    await originalToDiffusers(golden('original', 'II'), at('empty'), { force: true });
    expect(readFileSync(at('empty', 'unet', WEIGHTS)).equals(before)).toBe(false);
    expect(existsSync(at('empty', 'image_noising_scheduler'))).toBe(true);
    mkdirSync(at('home'));
    writeFileSync(at('home', 'thesis.txt'), 'x');
    await expectIFError('IO', () => originalToDiffusers(golden('original', 'I'), at('home'), { force: true }), 'holds no model', 'not replaced');
    expect(readdirSync(at('home'))).toEqual(['thesis.txt']);
    writeFileSync(at('file'), 'x');
    await expectIFError('IO', () => originalToDiffusers(golden('original', 'I'), at('file'), { force: true }), 'there is a file');
    expect(readdirSync(dir).sort()).toEqual(['empty', 'file', 'home']);
  });

  test('is not the input, nor in it, nor around it, by any path', async () => {
    cpSync(golden('tiny-if-II'), at('in'), { recursive: true });
    symlinkSync(at('in'), at('link'));
    for (const out of [at('in'), at('in', 'new'), at('link'), at('link', 'new'), dir, at('in', '..', 'in')]) {
      await expectIFError('INVALID_ARGUMENT', () => rewriteModel(at('in'), out, { force: true }), 'choose another place');
    }
    await expectIFError('INVALID_ARGUMENT', () => rewriteModel(at('in', 'unet', WEIGHTS), at('in', 'unet', WEIGHTS), { force: true }), 'choose another place');
    expectSameFile(at('in', 'unet', WEIGHTS), golden('tiny-if-II', 'unet', WEIGHTS));
  });

  test('a cancelled or failed conversion leaves nothing', async () => {
    const controller = new AbortController();
    await expectIFError('CANCELLED', () => rewriteModel(golden('tiny-if-I'), at('out'), { signal: controller.signal, onProgress: () => controller.abort() }));
    await originalToDiffusers(golden('original', 'I'), at('a'));
    await expectIFError('CANCELLED', () => diffusersToOriginal(at('a'), at('out2'), { signal: controller.signal }));
    await expectIFError('CANCELLED', () => originalToDiffusers(golden('original', 'I'), at('out2'), { signal: controller.signal }));
    expect(readdirSync(dir)).toEqual(['a']);
  });

  test('symbolic links in the input are followed to files, loops end', async () => {
    mkdirSync(at('hub'));
    for (const name of readdirSync(golden('unet_cross_only'))) symlinkSync(golden('unet_cross_only', name), at('hub', name));
    symlinkSync(at('hub'), at('hub', 'loop'));
    await rewriteModel(at('hub'), at('out'));
    expect(readdirSync(at('out')).sort()).toEqual(['config.json', WEIGHTS]);
  });
});

describe('originals that do not fit', () => {
  test('config and weights of two networks: all differences at once', async () => {
    mkdirSync(at('in'));
    cpSync(golden('original', 'I', 'config.yml'), at('in', 'config.yml'));
    cpSync(golden('original', 'II', 'pytorch_model.bin'), at('in', 'pytorch_model.bin'));
    await expectIFError('WEIGHTS', () => originalToDiffusers(at('in'), at('out')), 'input_blocks.0.0.weight (expected (32, 3, 3, 3), got (32, 6, 3, 3) f16)', 'unexpected: ');
    expect(isSound(await inspect(at('in')))).toBe(false);
  });
  test('missing files', async () => {
    await expectIFError('NOT_FOUND', () => originalToDiffusers(dir, at('out')), 'config.yml: no such file');
    cpSync(golden('original', 'I', 'config.yml'), at('config.yml'));
    await expectIFError('NOT_FOUND', () => originalToDiffusers(dir, path.join(tmpdir(), 'if-never')), 'pytorch_model.bin: no such file');
    await expectIFError('NOT_FOUND', () => resolveStage(dir), 'original IF code', 'if-convert original-to-diffusers');
    await expectIFError('UNSUPPORTED', () => rewriteModel(dir, path.join(tmpdir(), 'if-never')), 'if-convert original-to-diffusers');
  });
});

