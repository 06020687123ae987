// Stage II of emojis, 256 px, from random weights, on parts of 128 × 128 pixels; text by the encoder of `if-train configs/if_emoji_text.ts`.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'models/if-emoji/stage2', textFolder: 'runs/if_emoji_text', fromScratch: true },
  stage: 2,
  size: 128,
  data: { type: 'emoji', set: 'fluent', groups, cropFrom: 256 },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation', cropFrom: 256 }, pictures: 13, every: 1500 },
  // Little noise on the low-resolution picture (image_noising_scheduler): up to 0.22. One step from t = 999 draws the picture, so half
  // of the timesteps are above 980; the variance of that step is not learned.
  objective: { prediction: 'v_prediction', variance: 'fixed', timesteps: { type: 'later', portion: 0.02, multiplier: 49 } },
  optimizer: { lr: 2e-3 },
  schedule: { type: 'cosine', warmup: 100 },
  ema: { decay: 0.99 },
  batchSize: 4,
  steps: 4500,
  precision: 'fast',
  saveDtype: 'f16',
});
