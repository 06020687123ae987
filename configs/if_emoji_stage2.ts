// Stage II of emojis, 256 px, from random weights, on parts of 64 × 64 pixels; text by the encoder of `if-train configs/if_emoji_text.ts`.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'models/if-emoji-stage2', textFolder: 'runs/if_emoji_text', fromScratch: true },
  stage: 2,
  size: 64,
  data: { type: 'emoji', set: 'fluent', groups, cropFrom: 256 },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation', cropFrom: 256 }, pictures: 13 },
  // little noise on the low-resolution picture, too (image_noising_scheduler): up to 0.22
  objective: { prediction: 'v_prediction', timesteps: { type: 'later', portion: 0.5, multiplier: 3 } },
  optimizer: { lr: 1e-3 },
  schedule: { warmup: 100 },
  ema: { decay: 0.998 },
  batchSize: 16,
  steps: 20_000,
  precision: 'fast',
});
