// Stage I of if-emoji, 64 px, after `if-train configs/if_emoji_text.ts`: the text encoder is frozen, captions are encoded once.
import { defineConfig } from 'deepfloyd-if';

const groups = ['smileys', 'animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'runs/if_emoji_text' },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation' }, pictures: 22, every: 1000 },
  objective: { timesteps: { type: 'later', portion: 0.5, multiplier: 2 } },
  optimizer: { lr: 1e-3 },
  schedule: { warmup: 100 },
  ema: { decay: 0.999 },
  batchSize: 16,
  steps: 5000,
  precision: 'fast',
  previews: { prompts: ['grinning face', 'red apple', 'dog face', 'strawberry', 'lemon', 'frog', 'smiling face with heart-eyes', 'pizza', 'pig face'], every: 1000, guidance: 2 },
});
