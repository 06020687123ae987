// The second half of stage II, after `if-train configs/if_emoji_stage2.ts`: whole pictures. A part of one that is enlarged by itself is
// shifted otherwise than in the whole (bilinear, corners aligned), which parts cannot teach (docs/if-emoji.md).
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'runs/if_emoji_stage2' },
  stage: 2,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: false, // its timesteps are spread over all; `npm run bench:emoji -- --upscale 2 --pictures 11` measures the one that is drawn from
  objective: { prediction: 'v_prediction', variance: 'fixed', timesteps: { type: 'earlier', portion: 0.999, multiplier: 0 } }, // t = 999 only
  optimizer: { lr: 5e-4 },
  schedule: { type: 'cosine', warmup: 50 },
  ema: { decay: 0.99 },
  batchSize: 2,
  steps: 4000,
  previews: false,
  precision: 'fast',
  saveDtype: 'f16',
});
