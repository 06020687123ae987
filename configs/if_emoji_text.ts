// The text encoder for if_emoji_stage1.ts: random weights of T5, which stay as they are; one step with a rate of nearly 0 writes
// them. Why they are not trained: docs/if-emoji.md.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: {
    folder: 'if-emoji', fromScratch: true, trainTextEncoder: true, // its sizes, tokenizer and scheduler
  },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups: ['animals', 'food'] },
  validation: false,
  previews: false,
  optimizer: { lr: 1e-12 },
  batchSize: 1,
  steps: 1,
});
