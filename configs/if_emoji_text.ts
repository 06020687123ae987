// The first part of if-emoji from random weights: T5 encoder and stage I together. The encoder is frozen after it;
// if_emoji_stage1.ts goes on with the network alone. What was tried, and the curves: models/if-emoji/README.md.
import { defineConfig } from 'deepfloyd-if';

const groups = ['smileys', 'animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'if-emoji', fromScratch: true, trainTextEncoder: true },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation' }, pictures: 22, every: 1000 },
  // v: at high noise, where colours and places are decided, its error is that of the picture; that of ε hardly sees it
  objective: { prediction: 'v_prediction', timesteps: { type: 'later', portion: 0.5, multiplier: 2 } },
  optimizer: { lr: 1.5e-3 },
  schedule: { warmup: 200 },
  ema: { decay: 0.999 },
  batchSize: 16,
  steps: 1500,
  precision: 'fast',
  previews: { prompts: ['grinning face', 'red apple', 'dog face', 'strawberry', 'lemon', 'frog', 'smiling face with heart-eyes', 'pizza', 'pig face'], every: 1000, guidance: 2 },
});
