// A stage I of emojis, 64 px, from random weights, after `if-train configs/if_emoji_text.ts`, whose text encoder stays as it is. What
// was tried, and the curves: docs/if-emoji.md.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'runs/if_emoji_text', fromScratch: true },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: { data: { type: 'emoji', set: 'fluent', groups, split: 'validation' }, pictures: 13, every: 1000 },
  // v: where noise hides all, its error is that of the picture, which the text alone decides; the error of ε hardly sees it.
  // Below t = 900 colours and places show through the noise and nothing is learned about the text: half of the steps are above.
  objective: { prediction: 'v_prediction', timesteps: { type: 'later', portion: 0.1, multiplier: 9 } },
  optimizer: { lr: 2e-3 },
  schedule: { type: 'cosine', warmup: 200 },
  ema: { decay: 0.999 },
  batchSize: 16,
  steps: 20_000,
  precision: 'fast',
  saveDtype: 'f16',
  previews: { prompts: ['red apple', 'dog face', 'strawberry', 'lemon', 'frog', 'sunflower', 'pizza', 'pig face', 'penguin'], every: 1000, guidance: 2 },
});
