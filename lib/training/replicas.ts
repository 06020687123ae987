import { addon, withProgress, withSignal, type DType, type MicroBatch, type OptimizerStep, type T5Handle, type TrainerHandle, type TrainerOptions, type TrainerState, type UNetHandle } from '../addon.js';
import { IFError } from '../errors.js';
import type { TrainableModel } from './model.js';

/** One replica of a model in training per device. Between calls, all have the same parameters, moments and averages. */
export class Replicas {
  private constructor(readonly devices: readonly string[], private readonly trainers: readonly TrainerHandle[], private readonly model: TrainableModel) {}

  /** Makes the replicas; their parameters are not defined before load, initialise or restore. */
  static async create(model: TrainableModel, devices: readonly string[], options: TrainerOptions): Promise<Replicas> {
    const trainers: TrainerHandle[] = [];
    try {
      for (const device of devices) trainers.push(await addon.trainerCreate(JSON.stringify(model.config), model.trainTextEncoder ? JSON.stringify(model.text.config) : null, device, options));
    } catch (error) {
      trainers.forEach((trainer) => addon.dispose(trainer));
      throw error;
    }
    return new Replicas(devices, trainers, model);
  }

  /** Reads the weights that the run starts from, or draws them; with LoRA it also draws the first factors. */
  async start(seed: bigint, options: { onProgress?: (done: number, total: number) => void; signal?: AbortSignal }): Promise<void> {
    const { unetFiles, text, trainTextEncoder } = this.model;
    for (const [i, trainer] of this.trainers.entries()) {
      if (unetFiles.length === 0) await withSignal(options.signal, (token) => addon.trainerInitialise(trainer, seed, token));
      else {
        const reporting = i === 0 ? options : { ...options, onProgress: () => undefined };
        await withProgress(reporting, (onProgress, token) => addon.trainerLoad(trainer, unetFiles, trainTextEncoder ? text.files : null, seed, onProgress, token));
      }
    }
  }

  /** Reads one part of a saved state into every replica. */
  async restore(file: string, part: TrainerState, signal?: AbortSignal): Promise<void> {
    for (const trainer of this.trainers) await withSignal(signal, (token) => addon.trainerRestore(trainer, file, part, token));
  }

  get info(): { parameters: number; bytes: number } {
    return addon.trainerInfo(this.trainers[0]!);
  }

  /**
   * Forward and backward of one micro-batch on replica `r`.
   * @returns two terms per sample: main, variational
   */
  async accumulate(r: number, batch: MicroBatch): Promise<Float32Array> {
    return (await addon.trainerAccumulate(this.trainers[r]!, batch)).terms;
  }

  /** The same terms without gradients, of the weights or their average. */
  async evaluate(r: number, batch: MicroBatch, ema: boolean): Promise<Float32Array> {
    return (await addon.trainerEvaluate(this.trainers[r]!, batch, ema)).terms;
  }

  /**
   * Adds the gradients of all replicas up and steps each.
   * @throws IFError `INTERNAL` when the replicas do not agree
   */
  async step(step: OptimizerStep): Promise<{ gradientNorm: number; applied: boolean }> {
    if (this.trainers.length > 1) await addon.trainerReduce([...this.trainers]);
    const results = await Promise.all(this.trainers.map((trainer) => addon.trainerStep(trainer, step)));
    const first = results[0]!;
    results.forEach((result, r) => {
      if (Object.is(result.gradientNorm, first.gradientNorm) && result.applied === first.applied) return;
      throw new IFError('INTERNAL', `step ${step.step}: the gradient norm on ${this.devices[r]} is ${result.gradientNorm}, on ${this.devices[0]} it is ${first.gradientNorm}`);
    });
    return first;
  }

  /** Writes one part of the state. */
  save(file: string, part: TrainerState, dtype: DType | 'f16', metadata: Readonly<Record<string, string>> = {}): Promise<void> {
    return addon.trainerSave(this.trainers[0]!, file, part, dtype, Object.entries(metadata));
  }

  /** A copy of the network for sampling, on the first device. */
  unet(dtype: DType, ema: boolean): Promise<UNetHandle> {
    return addon.trainerUnet(this.trainers[0]!, dtype, ema);
  }

  /** A copy of the text encoder that is trained, on the first device. */
  t5(dtype: DType, ema: boolean): Promise<T5Handle> {
    return addon.trainerT5(this.trainers[0]!, dtype, ema);
  }

  dispose(): void {
    for (const trainer of this.trainers) addon.dispose(trainer);
  }
}
