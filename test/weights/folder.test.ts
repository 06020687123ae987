import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findWeights, resolveStage } from '../../lib/weights/folder.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-folder-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const put = (...names: string[]) => names.forEach((name) => writeFileSync(path.join(dir, name), ''));
const putIndex = (name: string, weight_map: unknown) => writeFileSync(path.join(dir, name), JSON.stringify({ metadata: {}, weight_map }));
const at = (name: string) => path.join(dir, name);

describe('findWeights', () => {
  test('prefers no variant, then fp16, then bf16', async () => {
    put('diffusion_pytorch_model.bf16.safetensors', 'diffusion_pytorch_model.bin', 'config.json');
    expect(await findWeights(dir, 'unet')).toEqual({ files: [at('diffusion_pytorch_model.bf16.safetensors')], variant: 'bf16' });
    put('diffusion_pytorch_model.fp16.safetensors');
    expect((await findWeights(dir, 'unet')).variant).toBe('fp16');
    put('diffusion_pytorch_model.safetensors');
    expect(await findWeights(dir, 'unet')).toEqual({ files: [at('diffusion_pytorch_model.safetensors')], variant: undefined });
    expect((await findWeights(dir, 'unet', { variant: 'bf16' })).files).toEqual([at('diffusion_pytorch_model.bf16.safetensors')]);
  });

  test('shards', async () => {
    put('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.fp16-00001-of-00001.safetensors');
    putIndex('model.safetensors.index.json', { b: 'model-00002-of-00002.safetensors', a: 'model-00001-of-00002.safetensors', c: 'model-00001-of-00002.safetensors' });
    putIndex('model.safetensors.index.fp16.json', { a: 'model.fp16-00001-of-00001.safetensors' });
    const found = await findWeights(dir, 'text_encoder');
    expect(found.files).toEqual([at('model-00001-of-00002.safetensors'), at('model-00002-of-00002.safetensors')]);
    expect(found.index?.get('b')).toBe(at('model-00002-of-00002.safetensors'));
    expect((await findWeights(dir, 'text_encoder', { variant: 'fp16' })).files).toEqual([at('model.fp16-00001-of-00001.safetensors')]);
  });

  test('a shard that is missing', async () => {
    put('model-00001-of-00002.safetensors');
    putIndex('model.safetensors.index.json', { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' });
    await expectIFError('NOT_FOUND', () => findWeights(dir, 'text_encoder'), 'missing model-00002-of-00002.safetensors');
  });

  test.each(['../x.safetensors', '/etc/x.safetensors', 'a\\..\\x.safetensors', 'C:x.safetensors', 'x\0.safetensors', 'x.bin', '', 3, null])(
    'an index that points to %j is refused', async (name) => {
      putIndex('model.safetensors.index.json', { a: name });
      await expectIFError('FILE_FORMAT', () => findWeights(dir, 'text_encoder'), 'weight_map["a"]', 'in this folder');
    });

  test.each([undefined, {}, [], 'x'])('a weight_map of %j is refused', async (map) => {
    putIndex('model.safetensors.index.json', map);
    await expectIFError('FILE_FORMAT', () => findWeights(dir, 'text_encoder'), 'weight_map');
  });

  test('what is missing is said with what is there', async () => {
    await expectIFError('NOT_FOUND', () => findWeights(at('none'), 'unet'), 'no such folder');
    await expectIFError('NOT_FOUND', () => findWeights(dir, 'unet'), 'diffusion_pytorch_model.safetensors', 'an empty folder');
    put('pytorch_model.bin');
    await expectIFError('UNSUPPORTED', () => findWeights(dir, 'text_encoder'), 'pytorch_model.bin', 'convert');
    put('model.safetensors');
    await expectIFError('NOT_FOUND', () => findWeights(dir, 'text_encoder', { variant: 'fp16' }), 'model.fp16.safetensors', 'found only model.safetensors');
    await expectIFError('NOT_FOUND', () => findWeights(at('model.safetensors'), 'unet'), 'this is a file');
  });
});

describe('resolveStage', () => {
  const index = (value: object) => writeFileSync(at('model_index.json'), JSON.stringify(value));
  const folders = (...names: string[]) => names.forEach((name) => mkdirSync(at(name)));
  const unet = ['diffusers', 'UNet2DConditionModel'];
  const scheduler = ['diffusers', 'DDPMScheduler'];

  test('the recorded pipelines', async () => {
    const one = await resolveStage(golden('tiny-if-I'));
    expect(one).toMatchObject({ kind: 'base', unet: golden('tiny-if-I', 'unet'), scheduler: golden('tiny-if-I', 'scheduler'),
      textEncoder: golden('tiny-if-I', 'text_encoder'), tokenizer: golden('tiny-if-I', 'tokenizer') });
    expect(one.imageNoisingScheduler).toBeUndefined();
    expect(await resolveStage(golden('tiny-if-II'))).toMatchObject({ kind: 'super_resolution', imageNoisingScheduler: golden('tiny-if-II', 'image_noising_scheduler') });
    expect((await findWeights(one.unet, 'unet')).files).toEqual([path.join(one.unet, 'diffusion_pytorch_model.safetensors')]);
    expect((await findWeights(one.textEncoder!, 'text_encoder')).files).toHaveLength(1);
  });

  test('without a text encoder, or with its folder left out', async () => {
    folders('unet', 'scheduler');
    index({ _class_name: 'IFImg2ImgPipeline', unet, scheduler, text_encoder: [null, null], tokenizer: ['transformers', 'T5Tokenizer'], requires_safety_checker: false });
    const stage = await resolveStage(dir);
    expect(stage).toMatchObject({ kind: 'base', modelIndex: { className: 'IFImg2ImgPipeline' } });
    expect('textEncoder' in stage || 'tokenizer' in stage).toBe(false);
  });

  test('says what is wrong', async () => {
    await expectIFError('NOT_FOUND', () => resolveStage(at('none')), 'no such folder');
    await expectIFError('NOT_FOUND', () => resolveStage(dir), 'model_index.json', 'IFPipeline', 'an empty folder');
    put('config.json');
    await expectIFError('NOT_FOUND', () => resolveStage(dir), 'found config.json', 'give the folder above');
    index({ _class_name: 'StableDiffusionPipeline', unet, scheduler });
    await expectIFError('UNSUPPORTED', () => resolveStage(dir), 'StableDiffusionPipeline', 'IFSuperResolutionPipeline');
    index({ _class_name: 'IFPipeline', scheduler });
    await expectIFError('FILE_FORMAT', () => resolveStage(dir), 'IFPipeline needs unet');
    index({ _class_name: 'IFPipeline', unet, scheduler });
    await expectIFError('NOT_FOUND', () => resolveStage(dir), 'needs the folder unet');
    folders('unet', 'scheduler');
    index({ _class_name: 'IFSuperResolutionPipeline', unet, scheduler, image_noising_scheduler: scheduler });
    await expectIFError('NOT_FOUND', () => resolveStage(dir), 'image_noising_scheduler');
    writeFileSync(at('model_index.json'), '{');
    await expectIFError('FILE_FORMAT', () => resolveStage(dir), 'line 1, column 2');
  });
});
