// The text encoder for if_emoji_stage1.ts: random weights of T5, which stay as they are; one step with a rate of nearly 0 writes
// them. Why they are not trained: docs/if-emoji.md.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: {
    folder: 'if-emoji', fromScratch: true, trainTextEncoder: true, // tokenizer, scheduler, and what is not said here
    textEncoder: { d_model: 128, d_ff: 384, d_kv: 32, num_heads: 4, num_layers: 4 },
    unet: { block_out_channels: [16, 48, 128, 192], encoder_hid_dim: 128, cross_attention_dim: 128, time_embedding_dim: 256, norm_num_groups: 8 },
  },
  stage: 1,
  data: { type: 'emoji', set: 'fluent', groups: ['animals', 'food'] },
  validation: false,
  previews: false,
  optimizer: { lr: 1e-12 },
  batchSize: 1,
  steps: 1,
});
