import path from 'node:path';
import type { TrainerState } from '../addon.js';
import { Objective } from '../diffusion/objective.js';
import { IFError, type ErrorCode } from '../errors.js';
import { t5Arithmetic } from '../models/t5-encoder.js';
import { defaultCacheDir } from '../text/prompt-embeddings.js';
import { PromptStore } from '../text/prompt-store.js';
import { BatchBuilder, storedText, tokenText } from './batch.js';
import { partFile } from './checkpoint.js';
import { diverged, DivergenceWatch } from './divergence.js';
import type { OnTrainingEvent } from './events.js';
import { exportLora, exportPipeline } from './export.js';
import { Loader, prefetchCapacity, type LoadedSample } from './loader.js';
import { loraOptions } from './lora.js';
import { MetricsLog } from './metrics.js';
import { Previews } from './preview.js';
import { Replicas } from './replicas.js';
import type { ResolvedConfig } from './resolve-config.js';
import { setUp, type Setup } from './setup.js';
import { Stage1Samples } from './stage1-samples.js';
import { emaDecay, learningRateFactor } from './step-schedule.js';
import { Validation } from './validation.js';

export interface TrainOptions {
  /** Goes on after the newest checkpoint in the folder of the run; starts anew when there is none. Default: false. */
  resume?: boolean;
  /** Folder of the caches of prompt embeddings and data; null: none. Default: see defaultCacheDir. */
  cacheDir?: string | null;
  onEvent?: OnTrainingEvent;
  /** Ends the run after the step that is being done, with a checkpoint. */
  signal?: AbortSignal;
}

/**
 * Trains a stage as a configuration says, up to its last step, and writes the result as a pipeline folder; with LoRA as an
 * adapter.
 * @returns the folder
 * @throws IFError before anything heavy starts: `INVALID_ARGUMENT`, `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`,
 *   `OUT_OF_MEMORY`, `IO`, `NOT_BUILT`; later `CANCELLED` when the signal ended it, `DIVERGED`, or what the data throws, each
 *   after a checkpoint of the last good step; or `IO` when a file of the run cannot be written
 */
export async function train(config: ResolvedConfig, options: TrainOptions = {}): Promise<string> {
  const onEvent = options.onEvent ?? (() => undefined);
  const cacheDir = options.cacheDir === undefined ? defaultCacheDir() : options.cacheDir;
  const setup = await setUp(config, { resume: options.resume ?? false, cacheDir, onEvent, signal: options.signal });
  let run: Run | undefined;
  try {
    run = await Run.open(setup, cacheDir, onEvent, options.signal);
    await run.toEnd();
    return setup.config.out;
  } finally {
    await run?.close();
    await Promise.allSettled(setup.datasets.map((dataset) => dataset.close()));
  }
}

/** Errors that come between two updates of the weights, and not from writing. */
const LEAVE_THE_MODEL_GOOD: ReadonlySet<string> = new Set<ErrorCode>(['CANCELLED', 'DIVERGED', 'NOT_FOUND', 'FILE_FORMAT', 'INVALID_ARGUMENT']);

/** A run with its model in memory. */
class Run {
  private step: number;
  private saved: number;
  /** Keys of unreadable pictures that were reported. */
  private readonly skipped = new Set<string>();
  private readonly watch = new DivergenceWatch();
  private readonly durations: number[] = [];

  private constructor(
    private readonly setup: Setup,
    private readonly replicas: Replicas,
    private readonly batches: BatchBuilder,
    private readonly stage1: Stage1Samples | undefined,
    private readonly loader: Loader,
    private readonly metrics: MetricsLog,
    private readonly validation: Validation | undefined,
    private readonly previews: Previews | undefined,
    private readonly onEvent: OnTrainingEvent,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.step = setup.checkpoint?.state.step ?? 0;
    this.saved = this.step;
  }

  /** Encodes the captions, loads the model, and reads the checkpoint. */
  static async open(setup: Setup, cacheDir: string | null, onEvent: OnTrainingEvent, signal: AbortSignal | undefined): Promise<Run> {
    const { config, model, scheduler, random, sources, checkpoint } = setup;
    const store = model.trainTextEncoder ? undefined : await encodeCaptions(setup, cacheDir, onEvent, signal);
    const { prediction, variance, weighting } = config.objective;
    const objective = (by: typeof weighting): Objective => new Objective(model.scheduler.config, model.noiser?.config, { prediction, variance, weighting: by });
    const width = model.text.config.dModel;
    const text = store ? storedText(store, width) : tokenText(model.text);
    const stage1 = config.lowRes?.stage1 && await Stage1Samples.open({ ...config, lowRes: { ...config.lowRes, stage1: config.lowRes.stage1 } }, width, setup.shapes, config.dtype, random, text, signal);
    const batches = new BatchBuilder(config, objective(weighting), random, text, stage1);
    const previews = config.previews && setup.previewItems.length > 0 ? await Previews.create(setup.previewItems, { ...config, previews: config.previews }, model, scheduler, store) : undefined;
    const validation = config.validation ? new Validation(setup.heldOut, { ...config, validation: config.validation }, objective({ type: 'none' }), batches) : undefined;

    const { dtype, precision, gradientCheckpointing: checkpointing } = config;
    const replicas = await Replicas.create(model, config.devices, { dtype, precision, checkpointing, ema: config.ema !== false, lora: loraOptions(config) });
    try {
      if (!checkpoint || config.lora) await replicas.start(BigInt(config.seed), { onProgress: (done, total) => onEvent({ type: 'load', component: 'model', done, total, unit: 'bytes' }), ...(signal ? { signal } : {}) });
      if (checkpoint) for (const part of stateParts(setup)) await replicas.restore(partFile(checkpoint.dir, part), part, signal);
      const start = checkpoint?.state.step ?? 0;
      const metrics = await MetricsLog.open(config.out, checkpoint ? start : -1);
      const loader = new Loader({ sources, size: config.size, random, start: start * config.batchSize, capacity: prefetchCapacity(config.batchSize, config.size) });
      return new Run(setup, replicas, batches, stage1, loader, metrics, validation, previews, onEvent, signal);
    } catch (error) {
      replicas.dispose();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.loader.close();
    await this.metrics.close();
    this.replicas.dispose();
    this.stage1?.dispose();
  }

  /** All steps that are left, and the result. */
  async toEnd(): Promise<void> {
    const { config, model, sources } = this.setup;
    this.onEvent({ type: 'begin', parameters: this.replicas.info.parameters, pictures: sources.reduce((sum, { order }) => sum + order.length, 0), batchSize: config.batchSize, steps: config.steps });
    try {
      if (this.step === 0) await this.report(true);
      while (this.step < config.steps) {
        this.stopIfAsked();
        await this.oneStep();
        await this.report(this.step === config.steps);
        if (this.step % config.checkpoints.every === 0 || this.step === config.steps) await this.save();
      }
    } catch (error) {
      if (error instanceof IFError && LEAVE_THE_MODEL_GOOD.has(error.code)) await this.save();
      if (error instanceof IFError && error.code === 'CANCELLED') this.onEvent({ type: 'status', message: `stopped after step ${this.step} of ${config.steps}; --resume goes on from there` });
      throw error;
    }
    if (config.lora) await exportLora(config.out, this.replicas, model, config);
    else await exportPipeline(config.out, this.replicas, model, config, this.setup.pipeline, this.step);
    this.onEvent({ type: 'done', step: this.step, dir: config.out });
  }

  private stopIfAsked(): void {
    if (this.signal?.aborted) throw new IFError('CANCELLED', `the run was stopped after step ${this.step}; continue it with --resume`);
  }

  /** One optimizer step: loads a logical batch, adds its gradients up on all replicas, updates the weights. */
  private async oneStep(): Promise<void> {
    const { config, sources } = this.setup;
    const { optimizer } = config;
    const started = performance.now();
    const samples = await this.loader.next(config.batchSize);
    const waited = performance.now() - started;
    this.warnOfSkipped();

    const step = this.step + 1;
    const lr = optimizer.lr * learningRateFactor(config.schedule, step, config.steps);
    const terms = await this.gradients(samples);
    const trouble = this.watch.check(terms, samples.map((sample) => ({ key: sample.key, draw: this.batches.draw(sample) })));
    if (trouble) throw diverged(step, trouble, lr);
    const { weightDecay, beta1, beta2, eps, clipNorm, normLimit } = optimizer;
    const decay = config.ema ? emaDecay(config.ema.decay, step) : 0;
    const { gradientNorm, applied } = await this.replicas.step({ step, lr, weightDecay, beta1, beta2, eps, clipNorm, normLimit, emaDecay: decay });
    if (!applied) throw diverged(step, Number.isFinite(gradientNorm) ? `the gradient norm ${gradientNorm.toPrecision(4)} is above optimizer.normLimit ${normLimit}` : `the gradient norm is not finite (${gradientNorm})`, lr);
    this.step = step;

    const seconds = (performance.now() - started) / 1000;
    const { loss, mse, variational } = means(terms);
    const perStep = this.averageDuration(seconds);
    const epoch = (step * config.batchSize) / (sources[0]!.order.length * sources.length);
    const memory = process.memoryUsage.rss();
    const picturesPerSecond = config.batchSize / perStep;
    await this.metrics.write(step, 'train', {
      loss, main: mse, variational, gradient_norm: gradientNorm, lr, epoch, ema_decay: decay,
      seconds, data_seconds: waited / 1000, pictures_per_second: picturesPerSecond, memory_bytes: memory, skipped_pictures: this.skipped.size,
    });
    this.onEvent({ type: 'step', step, steps: config.steps, epoch, loss, gradientNorm, lr, picturesPerSecond, memory, secondsLeft: perStep * (config.steps - step) });
  }

  /**
   * Forward and backward of a logical batch. Replica r takes the r-th part of it, in micro-batches one after another.
   * @returns the terms of every sample, in order
   */
  private async gradients(samples: readonly LoadedSample[]): Promise<Float32Array> {
    const { batchSize, microBatch, devices } = this.setup.config;
    const share = batchSize / devices.length;
    const terms = new Float32Array(2 * batchSize);
    const results = await Promise.allSettled(devices.map(async (device, r) => {
      for (let first = r * share; first < (r + 1) * share; first += microBatch) {
        const part = samples.slice(first, first + microBatch);
        terms.set(await this.batches.training(part, device, (batch) => this.replicas.accumulate(r, batch)), 2 * first);
      }
    }));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return terms;
  }

  /** Seconds per step over the last steps. */
  private averageDuration(seconds: number): number {
    this.durations.push(seconds);
    if (this.durations.length > 20) this.durations.shift();
    return this.durations.reduce((sum, value) => sum + value, 0) / this.durations.length;
  }

  /** Validation and previews that are due. @param always whatever the step */
  private async report(always: boolean): Promise<void> {
    const { step, validation, previews, replicas, signal } = this;
    const { config } = this.setup;
    if (validation && config.validation && (always || step % config.validation.every === 0)) {
      const last = await validation.run(replicas, false, signal);
      // before the first step both are the same weights
      const ema = config.ema && step > 0 ? await validation.run(replicas, true, signal) : undefined;
      await this.metrics.write(step, 'validation', { loss: last.loss, mse: last.mse, ...(ema ? { ema_loss: ema.loss, ema_mse: ema.mse } : {}) });
      this.onEvent({ type: 'validation', step, last, ema });
    }
    if (previews && config.previews && (always || step % config.previews.every === 0)) {
      const file = await previews.draw(replicas, step, path.join(config.out, 'previews'), signal);
      this.onEvent({ type: 'preview', step, file });
    }
  }

  /** Writes a checkpoint of the last step, unless there is one. */
  private async save(): Promise<void> {
    if (this.saved === this.step) return;
    const { config, checkpoints, sources, pipeline } = this.setup;
    const { dataset: { description, length }, order: { perShape } } = sources[0]!;
    const data = { description, length, ...(sources[1] ? { prior: sources[1].dataset.length } : {}), ...(perShape ? { buckets: perShape } : {}) };
    const dir = await checkpoints.save({ step: this.step, config, data, pipeline }, stateParts(this.setup), (part, file) => this.replicas.save(file, part, 'f32'));
    this.saved = this.step;
    this.onEvent({ type: 'checkpoint', step: this.step, dir });
  }

  private warnOfSkipped(): void {
    for (const { key, reason } of this.setup.sources.flatMap(({ dataset }) => dataset.skipped)) {
      if (this.skipped.has(key)) continue;
      this.skipped.add(key);
      this.onEvent({ type: 'warning', message: `${key} is skipped: ${reason} (${this.skipped.size} so far)` });
    }
  }
}

/** What of the trainer a checkpoint holds, in the order in which it is read back: parameters come first. */
function stateParts({ config, model }: Setup): TrainerState[] {
  const parameters: TrainerState[] = model.trainTextEncoder ? ['unet', 't5'] : ['unet'];
  const moments: TrainerState[] = model.trainTextEncoder ? ['unet_moments', 't5_moments'] : ['unet_moments'];
  const averages: TrainerState[] = model.trainTextEncoder ? ['unet_ema', 't5_ema'] : ['unet_ema'];
  return [...parameters, ...moments, ...(config.ema ? averages : [])];
}

async function encodeCaptions({ config, model, datasets, previewItems }: Setup, cacheDir: string | null, onEvent: OnTrainingEvent, signal: AbortSignal | undefined): Promise<PromptStore> {
  async function* captions(): AsyncIterable<string> {
    for (const { prompt } of previewItems) yield prompt;
    for (const dataset of datasets) yield* dataset.captions();
  }
  return PromptStore.open(captions(), model.text, {
    ...t5Arithmetic(config.model.textDtype ?? config.dtype, config.dtype), device: config.devices[0]!, cacheDir,
    onWarning: (message) => onEvent({ type: 'warning', message }),
    onProgress: (done, total) => onEvent({ type: 'load', component: 'text_encoder', done, total, unit: 'bytes' }),
    onEncoded: (done, total) => onEvent({ type: 'load', component: 'encoding captions', done, total, unit: 'items' }),
    ...(signal ? { signal } : {}),
  });
}

/** Means over the logical batch; the sums are in sample order, so that they do not depend on its split. */
function means(terms: Float32Array): { loss: number; mse: number; variational: number } {
  const count = terms.length / 2;
  let mse = 0;
  let variational = 0;
  for (let i = 0; i < count; i++) {
    mse += terms[2 * i]!;
    variational += terms[2 * i + 1]!;
  }
  return { loss: (mse + variational) / count, mse: mse / count, variational: variational / count };
}
