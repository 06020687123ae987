import { addon, withSignal, type ConditioningHandle, type DType, type GeneratorHandle, type Precision } from '../addon.js';
import { DDPMScheduler } from '../diffusion/ddpm.js';
import type { TimestepSpec } from '../diffusion/respacing.js';
import { IFError } from '../errors.js';
import { parseUNetConfig, readJson, type UNetConfig } from '../models/config.js';
import { UNet } from '../models/unet.js';
import { Tensor, type Images } from '../tensor.js';
import { findWeights, resolveStage, type StageFolder } from '../weights/folder.js';
import type { OnProgress } from './progress.js';

// Pixels of a side; what a batch of such pictures needs is refused by the memory plan long before.
const MAX_SIZE = 65536;

/** How one stage samples; every value decided. */
export interface StageSettings {
  /** Timesteps, or the number of them. */
  timesteps: TimestepSpec;
  /** Classifier-free guidance weight w of Ho & Salimans 2022; off at 1 and below. */
  guidance: number;
  /** Timestep at which the low-resolution picture is noised, [0, 1000); stages II and III. */
  noiseLevel: number;
}

/** One stage of a cascade: its folder and configuration. Weights are loaded by `sample` and freed after it. */
export class Stage {
  private constructor(
    readonly folder: StageFolder,
    readonly config: UNetConfig,
    readonly scheduler: DDPMScheduler,
    /** Noises the low-resolution picture; undefined in stage I. */
    readonly noiser: DDPMScheduler | undefined,
    private readonly files: string[],
  ) {}

  /**
   * Reads the configuration files of a pipeline folder and finds its weights.
   * @param variant `fp16` or `bf16` files instead of the plain ones
   * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`
   */
  static async open(dir: string, variant?: 'fp16' | 'bf16'): Promise<Stage> {
    const folder = await resolveStage(dir);
    const configFile = `${folder.unet}/config.json`;
    const config = parseUNetConfig(await readJson(configFile), configFile);
    const scheduler = await openScheduler(folder.scheduler);
    const upscales = config.classEmbedType === 'timestep';
    if (upscales !== (folder.kind === 'super_resolution')) {
      throw new IFError('UNSUPPORTED', `${folder.dir}: the pipeline class is ${folder.modelIndex.className}, but the UNet ${upscales ? 'has' : 'lacks'} the class embedding of an upscaling stage`);
    }
    if (upscales && config.inChannels % 2 !== 0) {
      throw new IFError('UNSUPPORTED', `${configFile}: an upscaling stage needs an even in_channels (noisy picture and low-resolution picture), got ${config.inChannels}`);
    }
    const channels = upscales ? config.inChannels / 2 : config.inChannels;
    if (config.outChannels !== channels && config.outChannels !== 2 * channels) {
      throw new IFError('UNSUPPORTED', `${configFile}: out_channels must be ${channels}, or ${2 * channels} with the variance, got ${config.outChannels}`);
    }
    if (scheduler.learnsVariance && config.outChannels !== 2 * channels) {
      throw new IFError('UNSUPPORTED', `${folder.scheduler}: variance_type ${scheduler.config.varianceType} needs a UNet with ${2 * channels} output channels, this one has ${config.outChannels}`);
    }
    const noiser = folder.imageNoisingScheduler ? await openScheduler(folder.imageNoisingScheduler) : upscales ? scheduler : undefined;
    const { files } = await findWeights(folder.unet, 'unet', variant ? { variant } : {});
    return new Stage(folder, config, scheduler, noiser, files);
  }

  get upscales(): boolean {
    return this.noiser !== undefined;
  }

  /** Channels of a picture. */
  get channels(): number {
    return this.upscales ? this.config.inChannels / 2 : this.config.inChannels;
  }

  /** @throws IFError `INVALID_ARGUMENT` for sizes that the levels cannot halve, and settings out of range. */
  check(height: number, width: number, settings: StageSettings, name: string): void {
    const multiple = 2 ** (this.config.blockOutChannels.length - 1);
    for (const [what, value] of [['height', height], ['width', width]] as const) {
      if (!(Number.isInteger(value) && value >= multiple && value % multiple === 0 && value <= MAX_SIZE)) {
        throw new IFError('INVALID_ARGUMENT', `${name}: ${what} must be a multiple of ${multiple} (the UNet halves it ${this.config.blockOutChannels.length - 1} times) up to ${MAX_SIZE}, got ${value}`);
      }
    }
    if (!Number.isFinite(settings.guidance)) throw new IFError('INVALID_ARGUMENT', `${name}: guidance must be a finite number, got ${settings.guidance}`);
    const levels = this.noiser?.config.numTrainTimesteps ?? 1000;
    if (!(Number.isInteger(settings.noiseLevel) && settings.noiseLevel >= 0 && settings.noiseLevel < levels)) {
      throw new IFError('INVALID_ARGUMENT', `${name}: noise level must be an integer in [0, ${levels}), got ${settings.noiseLevel}`);
    }
    this.scheduler.timesteps(settings.timesteps);
  }

  /** What sampling needs in memory; nothing is loaded. */
  plan(dtype: DType, batch: number, height: number, width: number, tokens: number, guided: boolean, precision: Precision): ReturnType<typeof UNet.plan> {
    return UNet.plan(this.config, dtype, batch, height, width, tokens, guided, precision);
  }

  /**
   * Draws a batch of pictures. The generator is used in diffusers' order: initial noise; in an upscaling stage the noise
   * of the low-resolution picture; one draw per step with t > 0 (pipeline_if.py, pipeline_if_superresolution.py).
   * @param text (B, T, C) of the prompts, and of the negative prompts when guidance is on
   * @param lowRes (B, C, h, w) pictures of the previous stage in [-1, 1]
   * @returns (B, C, H, W) in about [-1, 1], as the sampler leaves them
   */
  async sample(input: {
    text: Tensor;
    negativeText: Tensor | undefined;
    batch: number;
    height: number;
    width: number;
    lowRes: Images | undefined;
    generator: GeneratorHandle;
    settings: StageSettings;
    dtype: DType;
    /** Default: `default`. */
    precision?: Precision;
    device: string;
    index: number;
    onProgress?: OnProgress | undefined;
    signal?: AbortSignal | undefined;
  }): Promise<Images> {
    const { batch, height, width, settings, device, index, onProgress } = input;
    const signal = input.signal;
    const timesteps = this.scheduler.timesteps(settings.timesteps);
    const component = `stage${index}`;
    const unet = await UNet.load(this.config, this.files, {
      dtype: input.dtype, precision: input.precision ?? 'default', device, onProgress: (done, total) => onProgress?.({ type: 'load', component, done, total }), ...(signal ? { signal } : {}),
    });
    let cond: ConditioningHandle | undefined;
    let x: Tensor | undefined;
    let lowRes: Tensor | undefined;
    try {
      cond = await this.prepare(unet, input.text, input.negativeText, signal);
      x = new Tensor(await withSignal(signal, (token) => addon.randn(input.generator, [batch, this.channels, height, width], device, token)));
      if (this.upscales) lowRes = await this.noisedLowRes(input, signal);
      for (const [i, timestep] of timesteps.entries()) {
        const started = performance.now();
        const step = { ...this.scheduler.stepCoefficients(timesteps, i) };
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
      if (!finite) {
        throw new IFError('WEIGHTS', `${component}: the result is not finite (NaN or infinity); the weights of ${this.folder.dir} are damaged, or do not belong to its configuration`);
      }
      return await x.toImages(signal);
    } finally {
      x?.dispose();
      lowRes?.dispose();
      if (cond) addon.dispose(cond);
      unet.dispose();
      addon.releaseCached(device);
    }
  }

  private async prepare(unet: UNet, text: Tensor, negative: Tensor | undefined, signal?: AbortSignal): Promise<ConditioningHandle> {
    if (!negative) return unet.prepare(text, signal);
    const [batch, tokens, width] = text.shape as [number, number, number];
    const both = new Float32Array(2 * batch * tokens * width);
    both.set(await negative.toFloat32(signal), 0);
    both.set(await text.toFloat32(signal), batch * tokens * width);
    using joined = Tensor.from(both, [2 * batch, tokens, width], unet.device);
    return unet.prepare(joined, signal);
  }

  /** The low-resolution picture, upsampled to the stage's size and noised at the stage's level. */
  private async noisedLowRes(input: { lowRes: Images | undefined; batch: number; height: number; width: number; generator: GeneratorHandle; settings: StageSettings; device: string; index: number }, signal?: AbortSignal): Promise<Tensor> {
    const { lowRes, batch, height, width, device, index } = input;
    if (!lowRes || lowRes.shape[0] !== batch || lowRes.shape[1] !== this.channels) {
      throw new IFError('INVALID_ARGUMENT', `stage${index}: expected ${batch} low-resolution picture(s) of ${this.channels} channels, got ${lowRes ? lowRes.shape.join('×') : 'none'}`);
    }
    using small = await Tensor.fromImages(lowRes, device, signal);
    using large = new Tensor(await withSignal(signal, (token) => addon.bilinear(small.handle, height, width, token)));
    using noise = new Tensor(await withSignal(signal, (token) => addon.randn(input.generator, [batch, this.channels, height, width], device, token)));
    const { sqrtAlpha, sqrtOneMinusAlpha } = this.noiser!.addNoiseCoefficients(input.settings.noiseLevel);
    return new Tensor(await withSignal(signal, (token) => addon.axpby(sqrtAlpha, large.handle, sqrtOneMinusAlpha, noise.handle, token)));
  }
}

async function openScheduler(dir: string): Promise<DDPMScheduler> {
  const file = `${dir}/scheduler_config.json`;
  return DDPMScheduler.fromConfig(await readJson(file), file);
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
