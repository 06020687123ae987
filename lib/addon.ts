// Loads the native addon and types its whole surface. Handles are opaque and type-tagged: a wrong or disposed one is a
// thrown IFError. Commands run in order on the queue of their device, off the event loop.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { IFError } from './errors.js';

declare const handle: unique symbol;
interface Handle<Name extends string> {
  readonly [handle]: Name;
}
export type TensorHandle = Handle<'Tensor'>;
export type GeneratorHandle = Handle<'TorchGenerator'>;
export type UNetHandle = Handle<'UNet'>;
export type T5Handle = Handle<'T5Encoder'>;
export type ConditioningHandle = Handle<'Conditioning'>;
export type TrainerHandle = Handle<'Trainer'>;
export type SafetensorsWriterHandle = Handle<'SafetensorsWriter'>;
export type CancelToken = Handle<'CancelToken'>;

/** Arithmetic type of a model. */
export type DType = 'f32' | 'bf16';
/** Of networks that draw: on a GPU also float16, which is a storage format on the CPU. */
export type SampleDType = DType | 'f16';
/** Of the text encoder: weights and arithmetic, or `int8`: int8 weights, with the arithmetic of the networks that it serves (bf16 beside f16). */
export type T5DType = DType | 'int8';
/**
 * Of the convolutions. `exact`: direct sums. `default`: Winograd's forms with float32 arithmetic where they are faster;
 * bfloat16 results keep their accuracy, float32 results differ by a few 1e-6. `fast`: for bf16, also Winograd's forms
 * that multiply in bfloat16, with several times the rounding error; for f32 the same as `default`.
 */
export const PRECISIONS = ['exact', 'default', 'fast'] as const;
export type Precision = (typeof PRECISIONS)[number];

/** Box, triangle, Keys' cubic with a = −1/2, Lanczos with three lobes. */
export type ResizeFilter = 'box' | 'bilinear' | 'bicubic' | 'lanczos';

export interface TensorInfo {
  shape: number[];
  dtype: 'f32' | 'bf16' | 'f16' | 'i32' | 'i64' | 'u8';
  device: string;
  bytes: number;
}

/** From the meta backend: bytes that stay, the largest sum of other tensors during one step, and its work. */
export interface MemoryPlan {
  weightBytes: number;
  activationBytes: number;
  /** 2 × multiply-adds of one step. */
  flops: number;
}

/** Coefficients of one DDPM step; see native/ops/types.h (DdpmStep) for the equations and lib/diffusion/ddpm.ts. */
export interface DdpmStep {
  sampleScale: number;
  outputScale: number;
  threshold: 'none' | 'clip' | 'dynamic';
  clipRange: number;
  ratio: number;
  maxValue: number;
  x0Coef: number;
  xCoef: number;
  addNoise: boolean;
  variance: 'fixed' | 'learned_range' | 'learned';
  sigma: number;
  minLog: number;
  maxLog: number;
}

/** Coefficients of one training sample, computed in float64; see native/ops/types.h (LossSample) and native/training/trainer.h. */
export interface TrainingSample {
  /** Global sample index: the key of its noise. */
  index: number;
  timestep: number;
  imageScale: number;
  noiseScale: number;
  noiseLevel: number;
  lowResScale: number;
  lowResNoiseScale: number;
  targetX0: number;
  targetNoise: number;
  weight: number;
  variationalWeight: number;
  sampleScale: number;
  outputScale: number;
  x0Coef: number;
  xCoef: number;
  trueLog: number;
  minLog: number;
  maxLog: number;
  last: boolean;
}

/** One micro-batch of B samples; pictures as RGB bytes, row by row. */
export interface MicroBatch {
  images: Uint8Array;
  height: number;
  width: number;
  /** Stages II and III: B pictures of lowResHeight × lowResWidth. */
  lowRes: Uint8Array | null;
  lowResHeight: number;
  lowResWidth: number;
  /** (B, T, encoder_hid_dim) float32, or null with ids and mask (B × T) for a text encoder that is trained as well. */
  text: TensorHandle | null;
  ids: Int32Array | null;
  mask: Int32Array | null;
  samples: TrainingSample[];
  noise: { offset: number; pyramidDiscount: number; inputPerturbation: number };
  seed: bigint;
  loss: 'mse' | 'huber';
  huberDelta: number;
  /** 1 / samples of the logical batch. */
  gradientScale: number;
}

export interface OptimizerStep {
  /** From 1. */
  step: number;
  lr: number;
  weightDecay: number;
  beta1: number;
  beta2: number;
  eps: number;
  /** Largest global norm of the gradient; 0: not clipped. */
  clipNorm: number;
  emaDecay: number;
  /** Above it, or when the norm is not finite, nothing is changed; 0: no limit. */
  normLimit: number;
}

export interface TrainerOptions {
  dtype: DType;
  precision: Precision;
  checkpointing: boolean;
  ema: boolean;
  /** The factors are trained, the model itself is frozen in `dtype`; null: the whole model is trained. */
  lora: { rank: number; alpha: number; dropout: number; targets: string[]; textTargets: string[] } | null;
}
/** Two float32 factors of a linear layer, on the CPU: `scale` · up · down is added to its weight. */
export interface LoraProduct {
  /** The layer, e.g. `down_blocks.1.attentions.0.to_q`. */
  module: string;
  /** (rank, in). */
  down: TensorHandle;
  /** (out, rank). */
  up: TensorHandle;
  scale: number;
}

export type TrainerState = 'unet' | 'unet_ema' | 'unet_moments' | 't5' | 't5_ema' | 't5_moments';

export interface Addon {
  abi(): number;
  setErrorClass(errorClass: new (code: never, message: string) => Error): void;

  cpuInfo(): { isa: string; supported: string[]; cores: number };
  cudaInfo(): { built: boolean; devices: { name: string; memory: number }[]; reason: string };
  /** Throws NOT_BUILT when the device cannot be used here. */
  checkDevice(device: string): void;
  /** Bytes that tensors can still take on a cuda device. */
  deviceMemory(device: string): number;
  /** Threads of a device's queue; 0 = available cores. Throws while the queue has commands. */
  setThreads(device: string, threads: number): void;
  getThreads(device: string): number;
  memory(device: string): { current: number; peak: number; cached: number };
  releaseCached(device: string): void;

  cancelToken(): CancelToken;
  cancel(token: CancelToken): void;
  dispose(value: TensorHandle | GeneratorHandle | UNetHandle | T5Handle | ConditioningHandle | TrainerHandle | SafetensorsWriterHandle): void;

  tensorFromFloat32(data: Float32Array, shape: number[], device: string): TensorHandle;
  tensorToFloat32(tensor: TensorHandle, cancel?: CancelToken | null): Promise<Float32Array>;
  tensorInfo(tensor: TensorHandle): TensorInfo;
  /** (N, C, H, W) float32 → (N, H, W, C), and back as the values in NCHW order. */
  imageToTensor(nchw: TensorHandle, cancel?: CancelToken | null): Promise<TensorHandle>;
  tensorToImage(nhwc: TensorHandle, cancel?: CancelToken | null): Promise<Float32Array>;
  generatorCreate(seed: bigint): GeneratorHandle;
  /** torch.randn of [N, C, H, W] on the CPU generator, as an NHWC tensor. */
  randn(generator: GeneratorHandle, nchw: number[], device: string, cancel?: CancelToken | null): Promise<TensorHandle>;
  bilinear(nhwc: TensorHandle, height: number, width: number, cancel?: CancelToken | null): Promise<TensorHandle>;
  /** a·x + b·z. */
  axpby(a: number, x: TensorHandle, b: number, z: TensorHandle, cancel?: CancelToken | null): Promise<TensorHandle>;
  allFinite(x: TensorHandle, cancel?: CancelToken | null): Promise<boolean>;

  /** Writes the tensors in `dtype`, atomically. */
  safetensorsSave(path: string, names: string[], tensors: TensorHandle[], dtype: DType, metadata: [string, string][], cancel?: CancelToken | null): Promise<void>;
  /** Every tensor of a file, as float32. */
  safetensorsLoad(path: string, cancel?: CancelToken | null): Promise<Record<string, TensorHandle>>;
  /** The header of a file: types as it writes them (`F32`), begin and end as positions in the file. */
  safetensorsInfo(path: string, cancel?: CancelToken | null): Promise<{
    tensors: { name: string; dtype: string; shape: number[]; begin: number; end: number }[];
    metadata: Record<string, string>;
  }>;
  /** A file that is written tensor by tensor and appears under its name with the commit; disposed before, it leaves nothing. */
  safetensorsWriter(path: string, tensors: { name: string; dtype: TensorInfo['dtype']; shape: readonly number[] }[], metadata: [string, string][], cancel?: CancelToken | null): Promise<SafetensorsWriterHandle>;
  /** Dense little-endian elements of `dtype`; products of their layer are added, floating types are converted into the declared one. */
  safetensorsWrite(writer: SafetensorsWriterHandle, name: string, bytes: Uint8Array, dtype: TensorInfo['dtype'], lora?: LoraProduct[] | null, cancel?: CancelToken | null): Promise<void>;
  safetensorsCommit(writer: SafetensorsWriterHandle, cancel?: CancelToken | null): Promise<void>;

  unetCreate(config: string, dtype: SampleDType, device: string, precision: Precision): Promise<UNetHandle>;
  /** `lora`: products that are added to the weights. */
  unetLoad(unet: UNetHandle, files: string[], lora?: LoraProduct[] | null, onProgress?: ((done: number, total: number) => void) | null, cancel?: CancelToken | null): Promise<void>;
  /** Random weights, for benchmarks. */
  unetLoadRandom(unet: UNetHandle, cancel?: CancelToken | null): Promise<void>;
  unetInfo(unet: UNetHandle): { parameters: number; weightBytes: number };
  /** text, pooledText: (B, T, encoder_hid_dim) float32; pooledText null = text. */
  unetPrepare(unet: UNetHandle, text: TensorHandle, pooledText: TensorHandle | null, cancel?: CancelToken | null): Promise<ConditioningHandle>;
  /** x (B, H, W, C) float32 → (B, H, W, out_channels) float32. */
  unetForward(unet: UNetHandle, x: TensorHandle, timesteps: number[], cond: ConditioningHandle, labels: number[] | null, cancel?: CancelToken | null): Promise<TensorHandle>;
  planUnet(config: string, dtype: SampleDType, batch: number, height: number, width: number, tokens: number, guided: boolean, precision: Precision, device: string): Promise<MemoryPlan>;

  /** int8Weights: linear layers with int8 weights, multiplied in `dtype`. */
  t5Create(config: string, dtype: DType, device: string, int8Weights: boolean): Promise<T5Handle>;
  t5Load(t5: T5Handle, files: string[], lora?: LoraProduct[] | null, onProgress?: ((done: number, total: number) => void) | null, cancel?: CancelToken | null): Promise<void>;
  t5LoadRandom(t5: T5Handle, cancel?: CancelToken | null): Promise<void>;
  t5Info(t5: T5Handle): { parameters: number; weightBytes: number };
  /** ids, mask: batch × T int32 → (B, T, d_model) float32. */
  t5Forward(t5: T5Handle, ids: Int32Array, mask: Int32Array, batch: number, cancel?: CancelToken | null): Promise<TensorHandle>;
  planT5(config: string, dtype: DType, int8Weights: boolean, batch: number, tokens: number, device: string): Promise<MemoryPlan>;

  /** Seconds of each run, for benchmarks: x (m, k) · wᵀ (n, k). */
  benchLinear(m: number, n: number, k: number, dtype: SampleDType, int8Weights: boolean, runs: number, device: string): Promise<number[]>;
  /** Seconds of each run of a 3×3 convolution, stride 1, padding 1; `precision` as in a UNet. */
  benchConv(batch: number, size: number, inChannels: number, outChannels: number, dtype: SampleDType, precision: Precision, runs: number, device: string): Promise<number[]>;
  /**
   * Writes random weights of a whole model, for benchmarks, tensor by tensor: PREFIX.safetensors, or
   * PREFIX-00001-of-0000N.safetensors when that is larger than `shardBytes`.
   */
  writeRandomWeights(kind: 'unet' | 't5', config: string, dtype: DType | 'f16', prefix: string, shardBytes: number): Promise<{ file: string; names: string[]; bytes: number }[]>;

  /** A model in training: float32 parameters, gradients, moments, EMA. t5Config: the text encoder is trained as well. */
  trainerCreate(unetConfig: string, t5Config: string | null, device: string, options: TrainerOptions): Promise<TrainerHandle>;
  /** `seed`: of the first factors of a LoRA. */
  trainerLoad(trainer: TrainerHandle, unetFiles: string[], t5Files: string[] | null, seed: bigint, onProgress?: ((done: number, total: number) => void) | null, cancel?: CancelToken | null): Promise<void>;
  /** Random parameters, for training from scratch. */
  trainerInitialise(trainer: TrainerHandle, seed: bigint, cancel?: CancelToken | null): Promise<void>;
  trainerInfo(trainer: TrainerHandle): { parameters: number; bytes: number };
  /** Forward and backward; gradients are added up. Two terms per sample: main, variational (both weighted). */
  trainerAccumulate(trainer: TrainerHandle, batch: MicroBatch, cancel?: CancelToken | null): Promise<{ terms: Float32Array; flops: number }>;
  /** The same terms without gradients. */
  trainerEvaluate(trainer: TrainerHandle, batch: MicroBatch, ema: boolean, cancel?: CancelToken | null): Promise<{ terms: Float32Array }>;
  /** Sums the gradients of all replicas by a fixed tree and gives every one the sum. No command of a replica may run. */
  trainerReduce(trainers: TrainerHandle[], cancel?: CancelToken | null): Promise<void>;
  /** AdamW on all parameters; gradients are zero afterwards. `applied` false: nothing else was changed. */
  trainerStep(trainer: TrainerHandle, step: OptimizerStep, cancel?: CancelToken | null): Promise<{ gradientNorm: number; applied: boolean }>;
  /** Writes one part of the state in the file's layout, atomically. */
  trainerSave(trainer: TrainerHandle, path: string, part: TrainerState, dtype: DType | 'f16', metadata: [string, string][], cancel?: CancelToken | null): Promise<void>;
  /** Reads back what trainerSave wrote in f32, bit for bit. */
  trainerRestore(trainer: TrainerHandle, path: string, part: TrainerState, cancel?: CancelToken | null): Promise<void>;
  /** Copies for sampling, packed in `dtype`. */
  trainerUnet(trainer: TrainerHandle, dtype: DType, ema: boolean, cancel?: CancelToken | null): Promise<UNetHandle>;
  trainerT5(trainer: TrainerHandle, dtype: DType, ema: boolean, cancel?: CancelToken | null): Promise<T5Handle>;
  /** Parameters, gradients, moments, EMA and frozen weights as weightBytes; the rest of one micro-batch as activationBytes. */
  planTrainer(unetConfig: string, t5Config: string | null, options: TrainerOptions, batch: number, height: number, width: number, tokens: number, device: string): Promise<MemoryPlan>;

  /**
   * Antialiased resize of interleaved 8-bit pixels as Pillow's Image.resize computes it (separable, support scaled by the
   * reduction), on a thread of its own: it waits behind no device. The pixels must be neither changed nor transferred
   * before it ends.
   */
  resizePixels(pixels: Uint8Array, width: number, height: number, channels: number, newWidth: number, newHeight: number, filter: ResizeFilter): Promise<Uint8Array>;

  /** One sampler step of a batch; cond with twice the pictures' texts (unconditional first) means guidance. */
  denoiseStep(input: {
    unet: UNetHandle;
    cond: ConditioningHandle;
    x: TensorHandle;
    lowRes: TensorHandle | null;
    timestep: number;
    noiseLevel: number;
    guidance: number;
    step: DdpmStep;
    generator: GeneratorHandle;
  }, cancel?: CancelToken | null): Promise<{ x: TensorHandle; x0: TensorHandle; flops: number }>;
}

const ABI = 4;

function loadAddon(): Addon {
  const require = createRequire(import.meta.url);
  // lib/ and dist/ are both one level below the package root
  const root = fileURLToPath(new URL('..', import.meta.url));
  let loaded: Addon;
  try {
    loaded = (require('node-gyp-build') as (dir: string) => Addon)(root);
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
    throw new IFError('NOT_BUILT', `the native addon could not be loaded (${reason}); run \`npm run build:native\` in ${root}`, { cause: error });
  }
  const abi = typeof loaded.abi === 'function' ? loaded.abi() : undefined;
  if (abi !== ABI) throw new IFError('NOT_BUILT', `the native addon is of another version (ABI ${abi}, expected ${ABI}); run \`npm run build:native\` in ${root}`);
  loaded.setErrorClass(IFError as never);
  return loaded;
}

export const addon: Addon = loadAddon();

/**
 * Runs a command that reports progress. An error that the callback throws cancels the command and is thrown from here.
 */
export async function withProgress(
  options: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal },
  command: (onProgress: ((done: number, total: number) => void) | null, token: CancelToken | null) => Promise<void>,
): Promise<void> {
  const { onProgress, signal } = options;
  if (!onProgress) return withSignal(signal, (token) => command(null, token));
  const failed = new AbortController();
  let thrown: { error: unknown } | undefined;
  const guarded = (done: number, total: number): void => {
    try {
      if (!thrown) onProgress(done, total);
    } catch (error) {
      thrown = { error };
      failed.abort();
    }
  };
  try {
    await withSignal(signal ? AbortSignal.any([signal, failed.signal]) : failed.signal, (token) => command(guarded, token));
  } catch (error) {
    throw thrown ? thrown.error : error;
  }
  if (thrown) throw (thrown as { error: unknown }).error;
}

/**
 * Runs `command` with a cancel token that follows `signal`. A cancelled command takes effect between two ops.
 * @throws IFError `CANCELLED` at once when the signal has fired already
 */
export async function withSignal<T>(signal: AbortSignal | undefined, command: (token: CancelToken | null) => Promise<T>): Promise<T> {
  if (!signal) return command(null);
  if (signal.aborted) throw new IFError('CANCELLED', 'the operation was cancelled');
  const token = addon.cancelToken();
  const onAbort = (): void => addon.cancel(token);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await command(token);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
