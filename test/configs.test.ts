// Every configuration that comes with the package is valid.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { readTrainingConfig } from '../lib/training/config-file.js';

const files = readdirSync('configs');

test('there are configurations', () => expect(files).toEqual([
  'deepfloyd_if_ii_l_dreambooth_lora_dog.ts', 'deepfloyd_if_l_pokemon_blip.ts', 'deepfloyd_if_xl_dreambooth_lora_dog.ts',
  'if_emoji_noto.ts', 'if_emoji_stage1.ts', 'if_emoji_stage1_detail.ts', 'if_emoji_stage2.ts', 'if_emoji_stage2_whole.ts', 'if_emoji_stage3.ts', 'if_emoji_text.ts',
]));

test.each(files)('%s', async (file) => {
  const stage = /_ii_/.test(file) ? 2 : Number(/stage(\d)/.exec(file)?.[1] ?? 1);
  expect(await readTrainingConfig(path.join('configs', file))).toMatchObject({ stage, out: path.join('runs', path.basename(file, '.ts')) });
});

test("deepfloyd_if_l_pokemon_blip has diffengine's values", async () => {
  expect(await readTrainingConfig('configs/deepfloyd_if_l_pokemon_blip.ts')).toMatchObject({
    optimizer: { lr: 1e-4, weightDecay: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1 }, batchSize: 4, epochs: 50, gradientCheckpointing: true, ema: false,
    schedule: { type: 'constant', warmup: 0 }, objective: { loss: 'mse', weighting: { type: 'none' } }, checkpoints: { keep: 3 },
  });
});

test("deepfloyd_if_xl_dreambooth_lora_dog has diffengine's values", async () => {
  expect(await readTrainingConfig('configs/deepfloyd_if_xl_dreambooth_lora_dog.ts')).toMatchObject({
    data: { caption: 'a photo of sks dog' }, lora: { rank: 8, alpha: 8, dropout: 0, targets: ['to_q', 'to_k', 'to_v', 'to_out.0'], textEncoder: false },
    optimizer: { lr: 5e-6, weightDecay: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1 }, batchSize: 4, steps: 1000, gradientCheckpointing: true, ema: false,
    schedule: { type: 'constant', warmup: 0 }, checkpoints: { every: 100, keep: 3 }, priorPreservation: { weight: 1, generate: { pictures: 200 } },
  });
});
