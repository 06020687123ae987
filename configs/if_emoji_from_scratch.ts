// A small stage I and its text encoder from random weights, on Fluent emoji. Hours on two cores before it draws emoji; the
// loss falls within minutes.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: {
    folder: 'if-emoji', // tokenizer, scheduler, and what is not said here
    fromScratch: true,
    trainTextEncoder: true,
    unet: { block_out_channels: [32, 64, 96, 128], cross_attention_dim: 128 },
    textEncoder: { num_layers: 2 },
  },
  stage: 1,
  data: { type: 'emoji', set: 'fluent' },
  validation: { data: { type: 'emoji', set: 'fluent', split: 'validation' }, pictures: 32 },
  optimizer: { lr: 1e-3 },
  schedule: { type: 'cosine', warmup: 500 },
  batchSize: 16,
  steps: 20_000,
  previews: { prompts: ['grinning face', 'red apple', 'dog face', 'rocket'], guidance: 3 },
});
