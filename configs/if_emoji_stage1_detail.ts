// The second half of stage I, after `if-train configs/if_emoji_stage1.ts`: that run spends its steps on the text, this one on what
// t between 200 and 900 decides, outlines and faces.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'runs/if_emoji_stage1' },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation' }, pictures: 13, every: 1000 },
  objective: { prediction: 'v_prediction', timesteps: { type: 'range', begin: 0.2, end: 0.9, multiplier: 4 } },
  optimizer: { lr: 1e-3 },
  schedule: { type: 'cosine', warmup: 100 },
  ema: { decay: 0.999 },
  batchSize: 16,
  steps: 5000,
  seed: 1,
  precision: 'fast',
  saveDtype: 'f16',
  previews: { prompts: ['red apple', 'dog face', 'strawberry', 'lemon', 'frog', 'sunflower', 'pizza', 'pig face', 'penguin'], every: 1000, guidance: 2 },
});
