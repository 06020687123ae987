// Full fine-tune of IF-I-L with the defaults of diffengine's config of the same name: AdamW 1e-4, weight decay 1e-2, batch 4,
// 50 epochs, clipping at 1.0, gradient checkpointing, a checkpoint per epoch. Meant for a GPU: on two CPU cores a step takes
// most of a minute and the run weeks. The variance is trained as well, and captions are dropped, neither of which diffengine
// does; with objective.variance=fixed and captionDropout=0 it is diffengine's objective.
//
// IF-I-L-v1.0 is the downloaded pipeline folder (gated, see the README). lambdalabs/pokemon-blip-captions was taken down; any
// folder of pictures with a metadata.jsonl of file_name and text will do, e.g. made from lambdalabs/naruto-blip-captions.
import { defineConfig } from 'deepfloyd-if';

const STEPS_PER_EPOCH = Math.ceil(833 / 4); // pictures of pokemon-blip-captions

export default defineConfig({
  model: { folder: 'IF-I-L-v1.0', variant: 'fp16' },
  stage: 1,
  data: { type: 'folder', path: 'pokemon-blip-captions' },
  validation: false,
  optimizer: { lr: 1e-4, weightDecay: 1e-2, clipNorm: 1 },
  batchSize: 4,
  epochs: 50,
  ema: false,
  gradientCheckpointing: true,
  checkpoints: { every: STEPS_PER_EPOCH, keep: 3 },
  previews: { prompts: ['a drawing of a green pokemon with red eyes', 'a green and yellow toy with a red nose', 'a red and white ball with an angry look', 'a cartoon picture of a blue and white pokemon'], every: STEPS_PER_EPOCH, timesteps: 50 },
});
