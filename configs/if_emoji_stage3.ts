// Stage III of emojis, 1024 px, from the weights of stage II, which enlarges four times as well: whole pictures, one per step. The
// folder that it starts from is models/if-emoji/stage3 with the UNet of `if-train configs/if_emoji_stage2_whole.ts` (docs/if-emoji.md).
import { defineConfig } from 'deepfloyd-if';

const groups = ['animals', 'food'] as const;

export default defineConfig({
  model: { folder: 'runs/if_emoji_stage3_start', textFolder: 'if-emoji' },
  stage: 3,
  size: 1024,
  data: { type: 'emoji', set: 'fluent', groups },
  validation: false, // its timesteps are spread over all; `npm run bench:emoji -- --upscale 3 --pictures 11` measures the one that is drawn from
  objective: { prediction: 'v_prediction', variance: 'fixed', timesteps: { type: 'earlier', portion: 0.999, multiplier: 0 } }, // t = 999 only
  optimizer: { lr: 4e-4 },
  schedule: { type: 'cosine', warmup: 20 },
  ema: { decay: 0.98 },
  batchSize: 1,
  steps: 450,
  seed: 1,
  previews: false,
  precision: 'fast',
  saveDtype: 'f16',
});
