import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseT5Config } from '../../lib/models/t5-config.js';
import { parseUNetConfig } from '../../lib/models/unet-config.js';
import { checkLora, openLora, writeLoraDiffusers, writeLoraPeft, type LoraAdapter } from '../../lib/weights/lora-format.js';
import { writeSafetensors } from '../../lib/weights/safetensors-writer.js';
import { diffusersTensors, unetTable, type NamedShape } from '../../lib/weights/tensor-map.js';
import { t5Tensors } from '../../lib/weights/t5-tensors.js';
import { openSafetensors } from '../../lib/weights/tensor-source.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-lora-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const at = (...parts: string[]): string => path.join(dir, ...parts);
const json = (file: string): Record<string, unknown> => JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
const PEFT = golden('training', 'lora_peft');
const DIFFUSERS = golden('training', 'lora_diffusers');
const unet = (): NamedShape[] => diffusersTensors(unetTable(parseUNetConfig(json(golden('tiny-if-I', 'unet', 'config.json')), 'unet')));
const t5 = (): NamedShape[] => t5Tensors(parseT5Config(json(golden('tiny-if-I', 'text_encoder', 'config.json')), 't5'));

/** Everything an adapter says, with the factors' bytes. */
async function contents(adapter: LoraAdapter): Promise<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const { component, name, rank, alpha, down, up } of adapter.modules) {
    out[`${component}/${name}`] = { rank, alpha, dtype: down.dtype, shapes: [down.shape, up.shape], down: (await adapter.read(down)).toString('hex'), up: (await adapter.read(up)).toString('hex') };
  }
  return Object.fromEntries(Object.entries(out).sort(([a], [b]) => (a < b ? -1 : 1)));
}
async function opened<T>(target: string, use: (adapter: LoraAdapter) => Promise<T>): Promise<T> {
  const adapter = await openLora(target);
  try {
    return await use(adapter);
  } finally {
    await adapter.close();
  }
}
/** A safetensors file of float32 tensors filled with their index. */
async function putTensors(file: string, tensors: Record<string, number[]>, metadata: Record<string, string> = {}): Promise<string> {
  await writeSafetensors(file, Object.entries(tensors).map(([name, shape], i) => ({
    name, shape, dtype: 'f32', read: async () => ({ bytes: Buffer.from(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(i).buffer), dtype: 'f32' }),
  })), Object.entries(metadata));
  return file;
}

describe('what PEFT and diffusers wrote', () => {
  test('the same factors in both layouts; alpha from the configuration, or the rank without one', async () => {
    const peft = await opened(PEFT, contents);
    expect(Object.keys(peft)).toHaveLength(42);
    expect(peft['unet/down_blocks.1.attentions.0.to_out.0']).toMatchObject({ rank: 4, alpha: 8, dtype: 'f32', shapes: [[4, 32], [32, 4]] });
    const diffusers = await opened(DIFFUSERS, contents);
    expect(diffusers).toEqual(Object.fromEntries(Object.entries(peft).map(([name, module]) => [name, { ...module as object, alpha: 4 }])));
    expect(await opened(path.join(DIFFUSERS, 'pytorch_lora_weights.safetensors'), contents)).toEqual(diffusers);
  });

  test('they fit their network, and no other', async () => {
    await opened(PEFT, async (adapter) => {
      checkLora(adapter, 'unet', unet(), 'x');
      checkLora(adapter, 'text_encoder', t5(), 'x');
      const other = diffusersTensors(unetTable(parseUNetConfig({ ...json(golden('tiny-if-I', 'unet', 'config.json')), cross_attention_dim: 32, only_cross_attention: true }, 'x')));
      await expectIFError('WEIGHTS', () => checkLora(adapter, 'unet', other, 'here'), 'here: ', /14 modules are no linear layers of the network: .*to_k/, /14 modules have another shape: .*add_k_proj \(\(32, 32\), the adapter's product is \(32, 64\)\)/);
    });
  });
});

describe('round trips', () => {
  test('PEFT → PEFT: the same weights, and the same fields', async () => {
    await opened(PEFT, (adapter) => writeLoraPeft(dir, adapter, unet()));
    expect(await opened(dir, contents)).toEqual(await opened(PEFT, contents));
    expect(readdirSync(dir).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    expect(readFileSync(at('adapter_model.safetensors')).equals(readFileSync(path.join(PEFT, 'adapter_model.safetensors')))).toBe(true);
    const written = json(at('adapter_config.json'));
    const recorded = json(path.join(PEFT, 'adapter_config.json'));
    expect({ ...recorded, ...written, target_modules: written['target_modules'] }).toEqual({ ...recorded, target_modules: [...recorded['target_modules'] as string[]].sort() });
  });

  test('PEFT → diffusers → PEFT, with what it was trained on', async () => {
    await opened(PEFT, async (adapter) => {
      adapter.origin = { baseModel: 'DeepFloyd/IF-I-XL-v1.0', stage: 'I', variance: 'fixed' };
      await writeLoraDiffusers(dir, adapter, { unet: unet() });
    });
    const source = await openSafetensors(at('pytorch_lora_weights.safetensors'));
    expect([...source.specs.keys()].filter((name) => !/^unet\.(down_blocks|mid_block|up_blocks)\..*\.lora_[AB]\.weight$/.test(name))).toEqual([]);
    expect(JSON.parse(source.metadata['lora_adapter_metadata']!)).toMatchObject({ 'unet.r': 4, 'unet.lora_alpha': 8, 'unet.target_modules': ['add_k_proj', 'add_v_proj', 'to_k', 'to_out.0', 'to_q', 'to_v'] });
    await source.close();
    mkdirSync(at('back'));
    await opened(dir, async (adapter) => {
      expect(adapter.origin).toEqual({ baseModel: 'DeepFloyd/IF-I-XL-v1.0', stage: 'I', variance: 'fixed' });
      await writeLoraPeft(at('back'), adapter, unet());
    });
    expect(json(at('back', 'adapter_config.json'))['base_model_name_or_path']).toBe('DeepFloyd/IF-I-XL-v1.0');
    expect(await opened(at('back'), contents)).toEqual(await opened(PEFT, contents));
    await opened(at('back'), async (adapter) => expect(adapter.origin).toEqual({ baseModel: 'DeepFloyd/IF-I-XL-v1.0', stage: 'I', variance: 'fixed' }));
  });

  test('a few modules of different ranks and alphas, in both networks', async () => {
    const target = await putTensors(at('mixed.safetensors'), {
      'unet.mid_block.attentions.0.to_q.lora_A.weight': [2, 64], 'unet.mid_block.attentions.0.to_q.lora_B.weight': [64, 2],
      'unet.mid_block.attentions.0.to_out.0.lora.down.weight': [3, 64], 'unet.mid_block.attentions.0.to_out.0.lora.up.weight': [64, 3],
      'text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight': [1, 64], 'text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight': [96, 1],
    }, { lora_adapter_metadata: JSON.stringify({ 'unet.r': 2, 'unet.lora_alpha': 5, 'unet.alpha_pattern': { '^mid_block.attentions.0.to_out.0': 7 }, 'text_encoder.lora_alpha': 9 }) });
    const before = await opened(target, contents);
    expect(before).toMatchObject({ 'unet/mid_block.attentions.0.to_q': { rank: 2, alpha: 5 }, 'unet/mid_block.attentions.0.to_out.0': { rank: 3, alpha: 7 }, 'text_encoder/encoder.block.0.layer.0.SelfAttention.q': { rank: 1, alpha: 9 } });
    await opened(target, async (adapter) => {
      checkLora(adapter, 'text_encoder', t5(), 'x');
      await writeLoraDiffusers(dir, adapter, { unet: unet(), text_encoder: t5() });
      await expectIFError('INVALID_ARGUMENT', () => writeLoraPeft(dir, adapter, unet()), 'one network');
    });
    expect(await opened(dir, contents)).toEqual(before);
    const source = await openSafetensors(at('pytorch_lora_weights.safetensors'));
    expect(JSON.parse(source.metadata['lora_adapter_metadata']!)).toMatchObject({
      // whole names: other layers that end in to_q are not adapted
      'unet.target_modules': ['mid_block.attentions.0.to_out.0', 'mid_block.attentions.0.to_q'], 'unet.rank_pattern': expect.any(Object) as object, 'text_encoder.target_modules': ['encoder.block.0.layer.0.SelfAttention.q'],
    });
    await source.close();
  });
});

describe('adapters that are refused', () => {
  const peftWith = (fields: Record<string, unknown>): string => {
    cpSync(PEFT, at('peft'), { recursive: true });
    writeFileSync(at('peft', 'adapter_config.json'), JSON.stringify({ ...json(path.join(PEFT, 'adapter_config.json')), ...fields }));
    return at('peft');
  };
  test.each<[string, unknown]>([['use_dora', true], ['use_rslora', true], ['bias', 'all'], ['peft_type', 'LOHA'], ['fan_in_fan_out', true], ['modules_to_save', ['conv_in']]])('%s %j', (key, value) =>
    expectIFError('UNSUPPORTED', () => openLora(peftWith({ [key]: value })), key, 'not supported'));
  test('alphas that are none', async () => {
    await expectIFError('FILE_FORMAT', () => openLora(peftWith({ lora_alpha: 'eight' })), 'lora_alpha');
    await expectIFError('UNSUPPORTED', () => openLora(peftWith({ alpha_pattern: { 'to_[qk]': 1 } })), 'expressions');
    await expectIFError('FILE_FORMAT', () => openLora(peftWith({ alpha_pattern: [1] })), 'alpha_pattern');
  });
  test('a pattern by the end of the name', async () => {
    const read = await opened(peftWith({ alpha_pattern: { 'attentions.0.to_q': 3, '^to_k': 5 } }), contents);
    expect(read['unet/mid_block.attentions.0.to_q']).toMatchObject({ alpha: 3 });
    expect(read['unet/up_blocks.0.attentions.1.to_q']).toMatchObject({ alpha: 8 });
    expect(read['unet/mid_block.attentions.0.to_k']).toMatchObject({ alpha: 8 });
  });
  test('factors that do not go together', async () => {
    const refused = async (code: 'FILE_FORMAT' | 'UNSUPPORTED', tensors: Record<string, number[]>, ...parts: string[]): Promise<void> => {
      const file = await putTensors(at('x.safetensors'), tensors);
      await expectIFError(code, () => openLora(file), ...parts);
    };
    await refused('FILE_FORMAT', { 'unet.a.lora_A.weight': [2, 8] }, 'a has no up factor');
    await refused('FILE_FORMAT', { 'unet.a.lora_B.weight': [8, 2] }, 'a has no down factor');
    await refused('FILE_FORMAT', { 'unet.a.lora_A.weight': [2, 8], 'unet.a.lora_B.weight': [8, 3] }, 'no common rank');
    await refused('FILE_FORMAT', { 'unet.a.lora_A.weight': [2, 8], 'unet.a.lora.down.weight': [2, 8], 'unet.a.lora_B.weight': [8, 2] }, 'two down factors');
    await refused('UNSUPPORTED', { 'unet.a.lora_A.weight': [2, 8, 3, 3], 'unet.a.lora_B.weight': [8, 2] }, 'no factor of a plain LoRA');
    await refused('UNSUPPORTED', { 'unet.a.alpha': [1] }, '"unet.a.alpha"', 'no factor');
    await refused('FILE_FORMAT', {}, 'no LoRA in it');
  });
  test('files that are missing or damaged', async () => {
    await expectIFError('NOT_FOUND', () => openLora(at('none')), 'no such file or folder');
    await expectIFError('NOT_FOUND', () => openLora(dir), 'adapter_config.json', 'an empty folder');
    writeFileSync(at('adapter_config.json'), '{}');
    await expectIFError('NOT_FOUND', () => openLora(dir), 'expected adapter_model.safetensors');
    const file = await putTensors(at('x.safetensors'), { 'unet.a.lora_A.weight': [2, 8], 'unet.a.lora_B.weight': [8, 2] }, { lora_adapter_metadata: '{"unet.r": ' });
    await expectIFError('FILE_FORMAT', () => openLora(file), 'lora_adapter_metadata', 'not valid JSON');
  });
});
