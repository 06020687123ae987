import type { Dataset, Sample } from '../data/dataset.js';
import type { Objective } from '../diffusion/objective.js';
import { IFError } from '../errors.js';
import type { BatchBuilder } from './batch.js';
import { checked } from './loader.js';
import type { Replicas } from './replicas.js';
import type { RunConfig } from './run-config.js';

// Of the validation's noise: the same in every run, so that runs can be compared.
const SEED = 0x76616c6964617465n; // "validate"
const GOLDEN_RATIO = (Math.sqrt(5) - 1) / 2;

/**
 * Reads pictures in the middle: centre crop, square, not mirrored.
 * @param indices which pictures; those that cannot be read are left out
 * @throws IFError `NOT_FOUND` when none can be read
 */
export async function readPictures(dataset: Dataset, indices: Iterable<number>, size: number, signal?: AbortSignal): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const index of indices) {
    const sample = await dataset.load(index, { width: size, height: size, random: () => 0.5, ...(signal ? { signal } : {}) });
    if (sample) samples.push(checked(sample, { width: size, height: size }, dataset));
  }
  if (samples.length === 0) throw new IFError('NOT_FOUND', `${dataset.description}: none of the validation pictures can be read${dataset.skipped[0] ? `; the first: ${dataset.skipped[0].key}: ${dataset.skipped[0].reason}` : ''}`);
  return samples;
}

export interface ValidationResult {
  /** Mean of main and variational term together. */
  loss: number;
  /** Mean squared error of the prediction, without weighting. */
  mse: number;
}

/** Loss on pictures that are not trained on. Timesteps, noise and noise levels are fixed, so that values are comparable. */
export class Validation {
  /**
   * @param pictures from readPictures
   * @param objective without weighting
   */
  constructor(
    private readonly pictures: readonly Sample[],
    private readonly config: RunConfig & { validation: Exclude<RunConfig['validation'], false> },
    private readonly objective: Objective,
    private readonly batches: BatchBuilder,
  ) {}

  /**
   * Evaluates every picture at every timestep of the grid, split among the replicas.
   * @param ema of the averaged weights
   * @throws IFError `CANCELLED`
   */
  async run(replicas: Replicas, ema: boolean, signal?: AbortSignal): Promise<ValidationResult> {
    const { microBatch, validation: { timesteps } } = this.config;
    const points = this.pictures.flatMap((picture, p) => Array.from({ length: timesteps }, (_, j) => ({ picture, index: p * timesteps + j, j })));
    const terms = new Float64Array(2 * points.length);
    const evaluateFrom = async (replica: number): Promise<void> => {
      for (let first = replica * microBatch; first < points.length; first += replicas.devices.length * microBatch) {
        if (signal?.aborted) throw new IFError('CANCELLED', 'the validation was cancelled');
        terms.set(await this.evaluate(points.slice(first, first + microBatch), replicas, replica, ema), 2 * first);
      }
    };
    await Promise.all(replicas.devices.map((_, replica) => evaluateFrom(replica)));
    let main = 0;
    let all = 0;
    for (let i = 0; i < points.length; i++) {
      main += terms[2 * i]! / points.length;
      all += (terms[2 * i]! + terms[2 * i + 1]!) / points.length;
    }
    return { loss: all, mse: main };
  }

  private evaluate(points: readonly { picture: Sample; index: number; j: number }[], replicas: Replicas, replica: number, ema: boolean): Promise<Float32Array> {
    const { objective } = this;
    const { numTrainTimesteps: total, numNoiseLevels: levels } = objective;
    const coefficients = points.map(({ index, j }) => objective.sample({
      index,
      timestep: Math.floor(((j + 0.5) / this.config.validation.timesteps) * total),
      noiseLevel: levels && Math.floor((((index + 1) * GOLDEN_RATIO) % 1) * levels), // evenly spread over the levels
    }));
    return this.batches.build(points.map(({ picture }) => picture), points.map(({ picture }) => picture.caption), coefficients, replicas.devices[replica]!, {
      noise: { offset: 0, pyramidDiscount: 0, inputPerturbation: 0 }, seed: SEED, loss: 'mse', huberDelta: 1, gradientScale: 1,
    }, (batch) => replicas.evaluate(replica, batch, ema));
  }
}
