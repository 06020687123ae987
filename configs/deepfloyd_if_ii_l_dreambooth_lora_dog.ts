// The stage II that goes with deepfloyd_if_xl_dreambooth_lora_dog: the same subject at 256 px, so that its fur and eyes are those of
// the pictures. A lower rate: an upscaling stage is easily spoiled. The pictures of the class are IF-I-XL's, enlarged by IF-II-L,
// 200 of them, before anything is trained. Meant for a GPU.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: { folder: 'IF-II-L-v1.0', variant: 'fp16', textFolder: 'IF-I-XL-v1.0' },
  stage: 2,
  data: { type: 'folder', path: 'dog', caption: 'a photo of sks dog' },
  priorPreservation: {
    data: { type: 'folder', path: 'class-dog-256', caption: 'a photo of dog' },
    generate: { pictures: 200, stage1: { folder: 'IF-I-XL-v1.0', variant: 'fp16' } },
  },
  lora: { rank: 8, alpha: 8, targets: ['to_q', 'to_k', 'to_v', 'to_out.0'] },
  validation: false,
  optimizer: { lr: 1e-6, weightDecay: 1e-2, clipNorm: 1 },
  batchSize: 4,
  microBatch: 1,
  steps: 1000,
  ema: false,
  gradientCheckpointing: true,
  checkpoints: { every: 100, keep: 3 },
  previews: { every: 100, timesteps: 50 },
});
