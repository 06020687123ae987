import { addon, withSignal, type ConditioningHandle, type GeneratorHandle } from '../addon.js';
import type { DDPMScheduler } from '../diffusion/ddpm.js';
import { IFError } from '../errors.js';
import type { UNet } from '../models/unet.js';
import { Tensor, type Images } from '../tensor.js';
import type { OnProgress } from './progress.js';
import type { StageSettings } from './stage.js';

export interface DenoiseInput {
  scheduler: DDPMScheduler;
  /** Noises the low-resolution picture; undefined in stage I. */
  noiser: DDPMScheduler | undefined;
  /** (B, T, C) of the prompts. */
  text: Tensor;
  /** Of the negative prompts, when guidance is on. */
  negativeText: Tensor | undefined;
  batch: number;
  height: number;
  width: number;
  /** (B, C, h, w) pictures of the previous stage in [-1, 1]. */
  lowRes: Images | undefined;
  generator: GeneratorHandle;
  settings: StageSettings;
  /**
   * Begins with these pictures (B, C, H, W), noised, and does the last part of the steps only: strength 1 is all of them
   * (SDEdit, Meng et al. 2022; diffusers' img2img pipelines). At least one step is done.
   */
  start?: { images: Images; strength: number } | undefined;
  device: string;
  /** Of the stage, for messages and progress: 1, 2 or 3. */
  index: number;
  onProgress?: OnProgress | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Draws a batch of pictures. The generator is used in diffusers' order: initial noise; in an upscaling stage the noise
 * of the low-resolution picture; one draw per step with t > 0 (pipeline_if.py, pipeline_if_superresolution.py).
 * @returns (B, C, H, W) in about [-1, 1], as the sampler leaves them; undefined when they are not finite
 */
export async function denoise(unet: UNet, input: DenoiseInput): Promise<Images | undefined> {
  const { batch, height, width, settings, device, index, onProgress, signal, scheduler } = input;
  const channels = input.noiser ? unet.config.inChannels / 2 : unet.config.inChannels;
  const all = scheduler.timesteps(settings.timesteps);
  const timesteps = input.start ? all.slice(Math.min(all.length - 1, all.length - Math.floor(all.length * input.start.strength))) : all;
  let cond: ConditioningHandle | undefined;
  let x: Tensor | undefined;
  let lowRes: Tensor | undefined;
  try {
    cond = await prepare(unet, input.text, input.negativeText, signal);
    x = new Tensor(await withSignal(signal, (token) => addon.randn(input.generator, [batch, channels, height, width], device, token)));
    if (input.start) {
      const noise = x;
      using picture = await Tensor.fromImages(input.start.images, device, signal);
      const { sqrtAlpha, sqrtOneMinusAlpha } = scheduler.addNoiseCoefficients(timesteps[0]!);
      x = new Tensor(await withSignal(signal, (token) => addon.axpby(sqrtAlpha, picture.handle, sqrtOneMinusAlpha, noise.handle, token)));
      noise.dispose();
    }
    if (input.noiser) lowRes = await noisedLowRes(input, input.noiser, channels);
    for (const [i, timestep] of timesteps.entries()) {
      const started = performance.now();
      const step = { ...scheduler.stepCoefficients(timesteps, i) };
      const state = {
        unet: unet.handle, cond, x: x.handle, lowRes: lowRes?.handle ?? null, timestep, noiseLevel: settings.noiseLevel,
        guidance: settings.guidance, step, generator: input.generator,
      };
      const result = await withSignal(signal, (token) => addon.denoiseStep(state, token));
      x.dispose();
      x = new Tensor(result.x);
      using x0 = new Tensor(result.x0);
      if (onProgress) {
        const preview = lazyPreview(x0);
        onProgress({ type: 'step', stage: index, step: i + 1, steps: timesteps.length, timestep, seconds: (performance.now() - started) / 1000, flops: result.flops, preview: preview.get });
        await preview.settled();
      }
    }
    const finite = await withSignal(signal, (token) => addon.allFinite(x!.handle, token));
    return finite ? await x.toImages(signal) : undefined;
  } finally {
    x?.dispose();
    lowRes?.dispose();
    if (cond) addon.dispose(cond);
  }
}

async function prepare(unet: UNet, text: Tensor, negative: Tensor | undefined, signal?: AbortSignal): Promise<ConditioningHandle> {
  if (!negative) return unet.prepare(text, signal);
  const [batch, tokens, width] = text.shape as [number, number, number];
  const both = new Float32Array(2 * batch * tokens * width);
  both.set(await negative.toFloat32(signal), 0);
  both.set(await text.toFloat32(signal), batch * tokens * width);
  using joined = Tensor.from(both, [2 * batch, tokens, width], unet.device);
  return unet.prepare(joined, signal);
}

/** The low-resolution picture, upsampled to the stage's size and noised at the stage's level. */
async function noisedLowRes(input: DenoiseInput, noiser: DDPMScheduler, channels: number): Promise<Tensor> {
  const { lowRes, batch, height, width, device, index, signal } = input;
  if (!lowRes || lowRes.shape[0] !== batch || lowRes.shape[1] !== channels) {
    throw new IFError('INVALID_ARGUMENT', `stage${index}: expected ${batch} low-resolution picture(s) of ${channels} channels, got ${lowRes ? lowRes.shape.join('×') : 'none'}`);
  }
  using small = await Tensor.fromImages(lowRes, device, signal);
  using large = new Tensor(await withSignal(signal, (token) => addon.bilinear(small.handle, height, width, token)));
  using noise = new Tensor(await withSignal(signal, (token) => addon.randn(input.generator, [batch, channels, height, width], device, token)));
  const { sqrtAlpha, sqrtOneMinusAlpha } = noiser.addNoiseCoefficients(input.settings.noiseLevel);
  return new Tensor(await withSignal(signal, (token) => addon.axpby(sqrtAlpha, large.handle, sqrtOneMinusAlpha, noise.handle, token)));
}

/** Reads a tensor only when asked, and keeps it alive until a read that was begun is over. */
function lazyPreview(tensor: Tensor): { get: () => Promise<Images>; settled: () => Promise<void> } {
  let reading: Promise<Images> | undefined;
  let open = true;
  return {
    get: () => {
      if (!open) return Promise.reject(new IFError('INVALID_ARGUMENT', 'preview: the picture of an earlier step is gone; read it before the progress callback returns'));
      return (reading ??= tensor.toImages());
    },
    settled: async () => {
      open = false;
      await reading?.catch(() => undefined);
    },
  };
}
