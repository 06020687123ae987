// The text encoder of if-emoji: random weights of T5, which stay as they are. One step with a rate of nearly 0 writes them.
// Trained together with stage I, its embeddings lost all but one direction (models/if-emoji/README.md).
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: {
    folder: 'if-emoji', fromScratch: true, trainTextEncoder: true, // tokenizer and configurations
  },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups: ['animals', 'food'] },
  validation: false,
  previews: false,
  optimizer: { lr: 1e-12 },
  batchSize: 1,
  steps: 1,
  saveDtype: 'f16',
});
