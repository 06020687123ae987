import { addon, type SampleDType, type Precision } from '../addon.js';
import { DDPMScheduler } from '../diffusion/ddpm.js';
import type { TimestepSpec } from '../diffusion/respacing.js';
import { IFError } from '../errors.js';
import { parseUNetConfig, readJson, type UNetConfig } from '../models/config.js';
import { isJsonObject, type JsonObject } from '../models/json.js';
import { UNet, type UNetOptions } from '../models/unet.js';
import type { Images } from '../tensor.js';
import type { LoraFactors } from '../lora-factors.js';
import { findWeights, resolveStage, type StageFolder } from '../weights/folder.js';
import { checkLora } from '../weights/lora-format.js';
import { checkLoraStage, loraFactors, loraScheduler, type AppliedLora } from '../weights/lora.js';
import { diffusersTensors, unetTable } from '../weights/tensor-map.js';
import { denoise, type DenoiseInput } from './denoise.js';

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

/** What the configuration files of a stage say, checked together. */
export interface StageFiles {
  folder: StageFolder;
  config: UNetConfig;
  scheduler: DDPMScheduler;
  /** Noises the low-resolution picture; undefined in stage I. */
  noiser: DDPMScheduler | undefined;
}

/**
 * Reads the configuration files of a pipeline folder.
 * @param unet fields of unet/config.json instead of the file's
 * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`
 */
export async function readStage(dir: string, unet: JsonObject = {}): Promise<StageFiles> {
  const folder = await resolveStage(dir);
  const configFile = `${folder.unet}/config.json`;
  const json = await readJson(configFile);
  const config = parseUNetConfig(isJsonObject(json) ? { ...json, ...unet } : json, configFile);
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
  return { folder, config, scheduler, noiser };
}

/** One stage of a cascade: its folder and configuration. Weights are loaded by `sample` and freed after it. */
export class Stage {
  private constructor(private readonly read: StageFiles, private readonly files: string[], private readonly lora: readonly LoraFactors[] = []) {}

  /**
   * Reads the configuration files of a pipeline folder and finds its weights.
   * @param variant `fp16` or `bf16` files instead of the plain ones
   * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`
   */
  static async open(dir: string, variant?: 'fp16' | 'bf16'): Promise<Stage> {
    const read = await readStage(dir);
    const { files } = await findWeights(read.folder.unet, 'unet', variant ? { variant } : {});
    return new Stage(read, files);
  }

  /**
   * The same stage with adapters, sampled as they were trained.
   * @throws IFError `WEIGHTS`, `INVALID_ARGUMENT` for adapters that do not fit; `UNSUPPORTED`
   */
  async adapted(loras: readonly AppliedLora[]): Promise<Stage> {
    if (loras.length === 0) return this;
    for (const lora of loras) {
      checkLoraStage(lora, this.upscales, this.folder.dir);
      checkLora(lora, 'unet', diffusersTensors(unetTable(this.config)), lora.path);
    }
    const scheduler = await openScheduler(this.folder.scheduler, loraScheduler(loras));
    return new Stage({ ...this.read, scheduler }, this.files, loraFactors(loras, 'unet'));
  }

  get folder(): StageFolder {
    return this.read.folder;
  }

  get config(): UNetConfig {
    return this.read.config;
  }

  get scheduler(): DDPMScheduler {
    return this.read.scheduler;
  }

  /** Noises the low-resolution picture; undefined in stage I. */
  get noiser(): DDPMScheduler | undefined {
    return this.read.noiser;
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
  plan(dtype: SampleDType, batch: number, height: number, width: number, tokens: number, guided: boolean, precision: Precision, device = 'cpu'): ReturnType<typeof UNet.plan> {
    return UNet.plan(this.config, dtype, batch, height, width, tokens, guided, precision, device);
  }

  /** The network with its weights. */
  load(options: UNetOptions): Promise<UNet> {
    return UNet.load(this.config, this.files, { ...options, lora: this.lora });
  }

  /**
   * Loads the network, draws a batch of pictures and frees it; see denoise.
   * @returns (B, C, H, W) in about [-1, 1], as the sampler leaves them
   */
  async sample(input: Omit<DenoiseInput, 'scheduler' | 'noiser'> & {
    dtype: SampleDType;
    /** Default: `default`. */
    precision?: Precision;
  }): Promise<Images> {
    const { device, index, onProgress, signal } = input;
    const component = `stage${index}`;
    const unet = await this.load({
      dtype: input.dtype, precision: input.precision ?? 'default', device, onProgress: (done, total) => onProgress?.({ type: 'load', component, done, total }), ...(signal ? { signal } : {}),
    });
    try {
      const result = await denoise(unet, { ...input, scheduler: this.scheduler, noiser: this.noiser });
      if (!result) {
        const cause = input.dtype === 'f16' ? 'float16 may have overflowed: use bf16; or ' : '';
        throw new IFError('WEIGHTS', `${component}: the result is not finite (NaN or infinity); ${cause}the weights of ${this.folder.dir} are damaged, or do not belong to its configuration`);
      }
      return result;
    } finally {
      unet.dispose();
      addon.releaseCached(device);
    }
  }
}

async function openScheduler(dir: string, changes: JsonObject = {}): Promise<DDPMScheduler> {
  const file = `${dir}/scheduler_config.json`;
  const json = await readJson(file);
  return DDPMScheduler.fromConfig(isJsonObject(json) ? { ...json, ...changes } : json, file);
}
