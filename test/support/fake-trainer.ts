// A stand-in for the trainer commands of the addon, for tests of the loop around them: a model of a few numbers whose
// samples' gradients depend on everything that a batch says, in exact and repeatable arithmetic; and faults on request.
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { addon, type Addon, type MicroBatch, type OptimizerStep, type TrainerHandle } from '../../lib/addon.js';
import { IFError } from '../../lib/errors.js';

const SIZE = 4;

class FakeTrainer {
  unet = new Float64Array(SIZE).fill(1);
  unet_ema = new Float64Array(SIZE).fill(1);
  unet_moments = new Float64Array(2 * SIZE);
  gradients: Float64Array[] = [];
}

export interface FakeOptions {
  /** Called before each micro-batch; may wait, throw, or change the terms. */
  onAccumulate?: (batch: MicroBatch, device: string) => Promise<void> | void;
  /** The main term of a sample instead of the model's. */
  mainTerm?: (index: number, step: number) => number | undefined;
  /** Norm of a step's gradient instead of the real one. */
  norm?: (step: number) => number | undefined;
  /** Called before a part is written. */
  onSave?: (file: string) => void;
}

export interface FakeState {
  batches: { device: string; batch: Omit<MicroBatch, 'text'>; captions: number }[];
  steps: OptimizerStep[];
  disposed: number;
}

/** Puts the stand-in into the addon until `restore` is called. */
export function installFakeTrainer(options: FakeOptions = {}): { state: FakeState; restore: () => void } {
  const trainers = new Map<TrainerHandle, { model: FakeTrainer; device: string }>();
  const state: FakeState = { batches: [], steps: [], disposed: 0 };
  const of = (handle: TrainerHandle): { model: FakeTrainer; device: string } => trainers.get(handle)!;
  let step = 0;

  /** Two terms per sample, and the gradient of their sum; a quadratic bowl whose place depends on the sample. */
  function forward({ samples, images, seed }: MicroBatch, weights: Float64Array): { terms: Float32Array; gradients: Float64Array[] } {
    const bytes = images.length / samples.length;
    const terms = new Float32Array(2 * samples.length);
    const gradients = samples.map((sample, n) => {
      const place = ((sample.index * 0.37 + sample.timestep * 0.011 + images[n * bytes]! * 0.05 + Number(seed % 97n)) % 1) - 0.5;
      const gradient = Float64Array.from({ length: SIZE }, (_, i) => weights[i]! - place * (i + 1));
      terms[2 * n] = options.mainTerm?.(sample.index, step + 1) ?? sample.weight * gradient.reduce((sum, g) => sum + g * g, 0) / SIZE;
      return gradient.map((g) => (2 * g * sample.weight) / SIZE);
    });
    return { terms, gradients };
  }

  const fake: Partial<Addon> = {
    async trainerCreate(_unet, _t5, device) {
      const handle = {} as TrainerHandle;
      trainers.set(handle, { model: new FakeTrainer(), device });
      return handle;
    },
    async trainerLoad(_trainer, _files, _t5, _seed, onProgress) {
      onProgress?.(1, 1);
    },
    async trainerInitialise(trainer, seed) {
      of(trainer).model.unet.fill(Number(seed));
    },
    trainerInfo: () => ({ parameters: SIZE, bytes: 20 * SIZE }),
    async trainerAccumulate(trainer, batch) {
      const { model, device } = of(trainer);
      await options.onAccumulate?.(batch, device);
      const { text, ...rest } = batch;
      state.batches.push({ device, batch: rest, captions: text ? addon.tensorInfo(text).shape[0]! : 0 });
      const { terms, gradients } = forward(batch, model.unet);
      model.gradients.push(...gradients.map((g) => g.map((x) => x * batch.gradientScale)));
      return { terms, flops: 1 };
    },
    async trainerEvaluate(trainer, batch, ema) {
      const { model } = of(trainer);
      return { terms: forward(batch, ema ? model.unet_ema : model.unet).terms };
    },
    async trainerReduce(handles) {
      const all = handles.flatMap((handle) => of(handle).model.gradients);
      for (const handle of handles) of(handle).model.gradients = [...all];
    },
    async trainerStep(trainer, given) {
      const { model } = of(trainer);
      if (trainer === [...trainers.keys()][0]) state.steps.push(given);
      step = given.step;
      const g = new Float64Array(SIZE);
      for (const gradient of model.gradients) gradient.forEach((x, i) => (g[i]! += x));
      model.gradients = [];
      const gradientNorm = options.norm?.(given.step) ?? Math.hypot(...g);
      if (!Number.isFinite(gradientNorm) || (given.normLimit > 0 && gradientNorm > given.normLimit)) return { gradientNorm, applied: false };
      for (let i = 0; i < SIZE; i++) {
        const m = (model.unet_moments[i] = given.beta1 * model.unet_moments[i]! + (1 - given.beta1) * g[i]!);
        const v = (model.unet_moments[SIZE + i] = given.beta2 * model.unet_moments[SIZE + i]! + (1 - given.beta2) * g[i]! ** 2);
        model.unet[i]! -= (given.lr * m) / (Math.sqrt(v) + given.eps) + given.lr * given.weightDecay * model.unet[i]!;
        model.unet_ema[i] = given.emaDecay * model.unet_ema[i]! + (1 - given.emaDecay) * model.unet[i]!;
      }
      return { gradientNorm, applied: true };
    },
    async trainerSave(trainer, file, part) {
      options.onSave?.(file);
      if (existsSync(file)) throw new IFError('INTERNAL', `${file} is there already`);
      await writeFile(file, JSON.stringify([...of(trainer).model[part as 'unet' | 'unet_ema' | 'unet_moments']]));
    },
    async trainerRestore(trainer, file, part) {
      of(trainer).model[part as 'unet' | 'unet_ema' | 'unet_moments'] = Float64Array.from(JSON.parse(await readFile(file, 'utf8')) as number[]);
    },
    planTrainer: async () => ({ weightBytes: 1e6, activationBytes: 1e6, flops: 1 }),
    dispose(value) {
      if (trainers.has(value as TrainerHandle)) state.disposed++;
      else original.dispose!(value);
    },
  };
  const original: Partial<Addon> = Object.fromEntries(Object.keys(fake).map((name) => [name, addon[name as keyof Addon]]));
  Object.assign(addon, fake);
  return { state, restore: () => Object.assign(addon, original) };
}
