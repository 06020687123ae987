import { addon, withProgress, withSignal, type ConditioningHandle, type SampleDType, type MemoryPlan, type Precision, type UNetHandle } from '../addon.js';
import { withFactors, type LoraFactors } from '../lora-factors.js';
import { Tensor } from '../tensor.js';
import type { UNetConfig } from './unet-config.js';

export interface LoadOptions {
  dtype: SampleDType;
  device: string;
  /** Products that are added to the weights in float32 before they are packed: they cost nothing per step. */
  lora?: readonly LoraFactors[];
  /** Bytes of the packed model done, and in all. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

export interface UNetOptions extends LoadOptions {
  /** Default: `default`. */
  precision?: Precision;
}

/** A UNet2DConditionModel in memory, ready to run. */
export class UNet {
  readonly handle: UNetHandle;
  readonly config: UNetConfig;
  readonly device: string;
  private constructor(handle: UNetHandle, config: UNetConfig, device: string) {
    this.handle = handle;
    this.config = config;
    this.device = device;
  }

  /**
   * Makes the network and fills it from safetensors files.
   * @throws IFError `WEIGHTS` with every missing, unexpected and misshapen tensor; `FILE_FORMAT`, `OUT_OF_MEMORY`, `CANCELLED`
   */
  static async load(config: UNetConfig, files: string[], options: UNetOptions): Promise<UNet> {
    const unet = await UNet.create(config, options);
    try {
      await withFactors(options.lora, (products) => withProgress(options, (onProgress, token) => addon.unetLoad(unet.handle, files, products, onProgress, token)));
    } catch (error) {
      unet.dispose();
      throw error;
    }
    return unet;
  }

  /** Takes over a network that the engine made, e.g. a copy of one in training. */
  static fromHandle(handle: UNetHandle, config: UNetConfig, device: string): UNet {
    return new UNet(handle, config, device);
  }

  /** A network with random weights, for benchmarks. */
  static async random(config: UNetConfig, options: UNetOptions): Promise<UNet> {
    const unet = await UNet.create(config, options);
    await withSignal(options.signal, (token) => addon.unetLoadRandom(unet.handle, token));
    return unet;
  }

  private static async create(config: UNetConfig, options: UNetOptions): Promise<UNet> {
    return new UNet(await addon.unetCreate(JSON.stringify(config), options.dtype, options.device, options.precision ?? 'default'), config, options.device);
  }

  /** What one step of `batch` pictures needs, before anything is loaded. `guided` doubles the batch. */
  static plan(config: UNetConfig, dtype: SampleDType, batch: number, height: number, width: number, tokens: number, guided: boolean, precision: Precision, device = 'cpu'): Promise<MemoryPlan> {
    return addon.planUnet(JSON.stringify(config), dtype, batch, height, width, tokens, guided, precision, device);
  }

  get info(): { parameters: number; weightBytes: number } {
    return addon.unetInfo(this.handle);
  }

  /**
   * Everything that depends on the text alone, once per picture: keys and values of every block, the pooled embedding.
   * @param text (B, T, encoder_hid_dim); with guidance the unconditional half first
   */
  prepare(text: Tensor, signal?: AbortSignal): Promise<ConditioningHandle> {
    return withSignal(signal, (token) => addon.unetPrepare(this.handle, text.handle, null, token));
  }

  /**
   * One evaluation.
   * @param x (B, H, W, in_channels)
   * @param timesteps B values
   * @param classLabels B noise levels, for networks with a class embedding
   * @returns (B, H, W, out_channels)
   */
  async forward(x: Tensor, timesteps: number[], cond: ConditioningHandle, classLabels?: number[], signal?: AbortSignal): Promise<Tensor> {
    return new Tensor(await withSignal(signal, (token) => addon.unetForward(this.handle, x.handle, timesteps, cond, classLabels ?? null, token)));
  }

  dispose(): void {
    addon.dispose(this.handle);
  }
}
