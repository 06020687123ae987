// Stage III of emojis, 1024 px, from random weights, on parts of 256 × 256 pixels (not good enough yet: docs/if-emoji.md); text by the encoder of `if-train configs/if_emoji_text.ts`.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'models/if-emoji-stage3', textFolder: 'runs/if_emoji_text', fromScratch: true },
  stage: 3,
  size: 256,
  data: { type: 'emoji', set: 'fluent', groups, cropFrom: 1024 },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation', cropFrom: 1024 }, pictures: 13, every: 1000 },
  objective: { prediction: 'v_prediction', variance: 'fixed', timesteps: { type: 'later', portion: 0.02, multiplier: 1_000_000 } },
  optimizer: { lr: 5e-4 },
  schedule: { type: 'cosine', warmup: 100 },
  ema: { decay: 0.99 },
  batchSize: 2,
  steps: 2500,
  previews: false,
  precision: 'fast',
  saveDtype: 'f16',
});
