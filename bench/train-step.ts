// One optimizer step of a stage I or II: forward, backward and AdamW, with random weights and random pictures.
import { addon, type DType, type MicroBatch, type Precision } from '../lib/addon.js';
import { Objective } from '../lib/diffusion/objective.js';
import { parseDDPMConfig, parseUNetConfig } from '../lib/models/config.js';
import { Tensor } from '../lib/tensor.js';
import { PROMPT_TOKENS } from '../lib/text/prompt-embeddings.js';
import { TEXT_TARGETS, UNET_TARGETS } from '../lib/training/lora.js';
import { componentConfig } from './configs.js';

export interface TrainStepOptions {
  config: string;
  dtype: DType;
  device: string;
  batch: number;
  /** Side of the pictures; undefined: the trained size. */
  size: number | undefined;
  precision: Precision;
  checkpointing: boolean;
  ema: boolean;
  /** Rank of factors beside the attention's layers of a frozen model; undefined: the whole model is trained. */
  lora: number | undefined;
}

/** A model in training, ready to step; `flop` is of forward and backward together once a step was done. */
export async function trainStep(options: TrainStepOptions): Promise<{ what: Record<string, unknown>; step: () => Promise<void>; flop: () => number }> {
  const { config, dtype, device, batch, precision, checkpointing, ema, lora: rank } = options;
  const unet = parseUNetConfig(await componentConfig(config, 'unet'), config);
  const size = options.size ?? unet.sampleSize ?? 64;
  const lora = rank === undefined ? null : { rank, alpha: rank, dropout: 0, targets: UNET_TARGETS, textTargets: TEXT_TARGETS };
  const trainerOptions = { dtype, precision, checkpointing, ema, lora };
  const plan = await addon.planTrainer(JSON.stringify(unet), null, trainerOptions, batch, size, size, PROMPT_TOKENS, device);
  const trainer = await addon.trainerCreate(JSON.stringify(unet), null, device, trainerOptions);
  await addon.trainerInitialise(trainer, 0n);
  const upscales = unet.classEmbedType === 'timestep';
  const channels = upscales ? unet.inChannels / 2 : unet.inChannels;
  const scheduler = parseDDPMConfig({ beta_schedule: 'squaredcos_cap_v2' }, 'bench');
  const objective = new Objective(scheduler, upscales ? scheduler : undefined, {
    prediction: 'epsilon', variance: unet.outChannels === 2 * channels ? 'learned' : 'fixed', weighting: { type: 'none' },
  });
  const text = Tensor.from(new Float32Array(batch * PROMPT_TOKENS * unet.encoderHidDim).map((_, i) => Math.sin(i)), [batch, PROMPT_TOKENS, unet.encoderHidDim], device);
  const pixels = (side: number): Uint8Array => new Uint8Array(batch * 3 * side * side).map((_, i) => (i * 7919) % 256);
  const side = upscales ? size / 4 : 0;
  let n = 0;
  let flop = 0;
  const step = async (): Promise<void> => {
    const micro: MicroBatch = {
      images: pixels(size), height: size, width: size, lowRes: upscales ? pixels(side) : null, lowResHeight: side, lowResWidth: side,
      text: text.handle, ids: null, mask: null, seed: 0n, loss: 'mse', huberDelta: 1, gradientScale: 1 / batch, noise: { offset: 0, pyramidDiscount: 0, inputPerturbation: 0 },
      samples: Array.from({ length: batch }, (_, i) => objective.sample({ index: n * batch + i, timestep: (100 + 250 * i) % 1000, noiseLevel: upscales ? 250 : undefined })),
    };
    flop = (await addon.trainerAccumulate(trainer, micro)).flops;
    await addon.trainerStep(trainer, { step: ++n, lr: 1e-5, weightDecay: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1, emaDecay: ema ? 0.999 : 0, normLimit: 0 });
  };
  return { what: { config, batch, size, precision, checkpointing, ema, ...(rank === undefined ? {} : { lora: rank }), ...addon.trainerInfo(trainer), plannedBytes: plan.weightBytes + plan.activationBytes }, step, flop: () => flop };
}
