// Fine-tunes the model that comes with the package, drawn in the style of Fluent emoji, to that of Noto emoji: about six minutes on
// two cores. The pictures come from npm: `npm install @iconify-json/noto emojibase-data` where this package is a dependency; a
// checkout has them.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: { folder: 'if-emoji' },
  stage: 1,
  data: { type: 'emoji', set: 'noto' },
  validation: { data: { type: 'emoji', set: 'noto', split: 'validation' }, pictures: 32, every: 250 },
  optimizer: { lr: 5e-4 },
  schedule: { type: 'cosine', warmup: 20 },
  batchSize: 8,
  steps: 1500,
  previews: { prompts: ['grinning face', 'red apple', 'dog face', 'umbrella with rain drops', 'rocket', 'cactus', 'soccer ball', 'smiling face with heart-eyes', 'pig face'], every: 250, guidance: 3 },
  checkpoints: { every: 250 },
});
