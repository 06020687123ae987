// DreamBooth of IF-I-XL by LoRA with the values of diffengine's config of the same name: rank 8 on the attentions' projections of
// queries, keys, values and outputs, AdamW 5e-6, weight decay 1e-2, batch 4, clipping at 1.0, gradient checkpointing, the caption
// and previews of its dog data set. That config reads another data set by mistake and counts 50 epochs of it; here are the
// thousand steps that its README shows. Prior preservation, the variance and dropped captions are more than it does: without
// priorPreservation, with objective.variance=fixed and captionDropout=0 it is diffengine's objective. Meant for a GPU.
//
// IF-I-XL-v1.0 is the downloaded pipeline folder (gated, see the README); dog holds the five pictures of diffusers/dog-example, or
// yours. The pictures of the class are drawn when they are missing: 200 pictures of 100 steps.
import { defineConfig } from 'deepfloyd-if';

export default defineConfig({
  model: { folder: 'IF-I-XL-v1.0', variant: 'fp16' },
  stage: 1,
  data: { type: 'folder', path: 'dog', caption: 'a photo of sks dog' },
  priorPreservation: {
    data: { type: 'folder', path: 'class-dog', caption: 'a photo of dog' },
    generate: { pictures: 200 },
  },
  lora: { rank: 8, alpha: 8, targets: ['to_q', 'to_k', 'to_v', 'to_out.0'] },
  validation: false,
  optimizer: { lr: 5e-6, weightDecay: 1e-2, clipNorm: 1 },
  batchSize: 4,
  steps: 1000,
  ema: false,
  gradientCheckpointing: true,
  checkpoints: { every: 100, keep: 3 },
  previews: { prompts: new Array<string>(4).fill('A photo of sks dog in a bucket'), every: 100, timesteps: 50 },
});
