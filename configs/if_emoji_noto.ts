// Fine-tunes the model that comes with the package, drawn in the style of Fluent emoji, to that of Noto emoji: a few minutes on
// two cores. The pictures come from npm: `npm install @iconify-json/noto emojibase-data` where this package is a dependency; a
// checkout has them.
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'if-emoji' },
  stage: 1,
  data: { type: 'emoji', set: 'noto', groups },
  validation: { data: { type: 'emoji', set: 'noto', groups, split: 'validation' }, pictures: 13, every: 250 },
  optimizer: { lr: 5e-4 },
  schedule: { type: 'cosine', warmup: 20 },
  batchSize: 8,
  steps: 1500,
  previews: { prompts: ['red apple', 'dog face', 'strawberry', 'lemon', 'frog', 'cactus', 'cherries', 'pig face', 'penguin'], every: 250, guidance: 2 },
  checkpoints: { every: 250 },
});
