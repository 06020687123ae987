import { addon, withProgress, withSignal, type DType, type MemoryPlan, type SampleDType, type T5DType, type T5Handle } from '../addon.js';
import { withFactors } from '../lora-factors.js';
import { Tensor } from '../tensor.js';
import type { T5Config } from './t5-config.js';
import type { LoadOptions } from './unet.js';

/** Of a text encoder beside networks that compute in `dtype`: the same, but its residual stream overflows float16. */
export function textDType(dtype: SampleDType): DType {
  return dtype === 'f16' ? 'bf16' : dtype;
}

/** What a T5DType means beside networks that compute in `dtype`. */
export function t5Arithmetic(t5Dtype: T5DType, dtype: SampleDType): { dtype: DType; int8Weights: boolean } {
  return t5Dtype === 'int8' ? { dtype: textDType(dtype), int8Weights: true } : { dtype: t5Dtype, int8Weights: false };
}

export interface T5LoadOptions extends Omit<LoadOptions, 'dtype'> {
  dtype: DType;
  /** Keep the weights of the linear layers as int8 with one scale per output: half the memory of bf16. Arithmetic stays in `dtype`. */
  int8Weights?: boolean;
}

/** A T5 v1.1 encoder in memory. */
export class T5Encoder {
  readonly handle: T5Handle;
  readonly config: T5Config;
  private constructor(handle: T5Handle, config: T5Config) {
    this.handle = handle;
    this.config = config;
  }

  /**
   * Makes the encoder and fills it from safetensors files.
   * @throws IFError `WEIGHTS` with every missing, unexpected and misshapen tensor; `FILE_FORMAT`, `OUT_OF_MEMORY`, `CANCELLED`
   */
  static async load(config: T5Config, files: string[], options: T5LoadOptions): Promise<T5Encoder> {
    const t5 = await T5Encoder.create(config, options);
    try {
      await withFactors(options.lora, (products) => withProgress(options, (onProgress, token) => addon.t5Load(t5.handle, files, products, onProgress, token)));
    } catch (error) {
      t5.dispose();
      throw error;
    }
    return t5;
  }

  /** Takes over an encoder that the engine made, e.g. a copy of one in training. */
  static fromHandle(handle: T5Handle, config: T5Config): T5Encoder {
    return new T5Encoder(handle, config);
  }

  /** An encoder with random weights, for benchmarks. */
  static async random(config: T5Config, options: T5LoadOptions): Promise<T5Encoder> {
    const t5 = await T5Encoder.create(config, options);
    await withSignal(options.signal, (token) => addon.t5LoadRandom(t5.handle, token));
    return t5;
  }

  private static async create(config: T5Config, options: T5LoadOptions): Promise<T5Encoder> {
    return new T5Encoder(await addon.t5Create(JSON.stringify(config), options.dtype, options.device, options.int8Weights ?? false), config);
  }

  static plan(config: T5Config, dtype: DType, int8Weights: boolean, batch: number, tokens: number, device = 'cpu'): Promise<MemoryPlan> {
    return addon.planT5(JSON.stringify(config), dtype, int8Weights, batch, tokens, device);
  }

  get info(): { parameters: number; weightBytes: number } {
    return addon.t5Info(this.handle);
  }

  /**
   * The last hidden state, after the final norm.
   * @param ids batch × T token ids, row-major
   * @param mask 1 for a token, 0 for padding (such keys are ignored)
   * @returns (batch, T, dModel) float32
   */
  async forward(ids: Int32Array, mask: Int32Array, batch: number, signal?: AbortSignal): Promise<Tensor> {
    return new Tensor(await withSignal(signal, (token) => addon.t5Forward(this.handle, ids, mask, batch, token)));
  }

  dispose(): void {
    addon.dispose(this.handle);
  }
}
