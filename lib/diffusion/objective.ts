import type { TrainingSample } from '../addon.js';
import { IFError } from '../errors.js';
import type { DDPMConfig } from '../models/scheduler-config.js';
import { NoiseSchedule } from './noise-schedule.js';

/**
 * Factor of the main term by timestep, with SNR = ᾱ / (1 − ᾱ).
 * - `none`: 1
 * - `min_snr`: min(SNR, γ) / SNR (Hang et al. 2023, "Efficient diffusion training via Min-SNR weighting", section 3.4)
 * - `debiased`: 1 / √SNR (Yu et al. 2023, "Debias the training of diffusion models"), at most `maxWeight`: unclamped it is
 *   2e4 at t = 999 of the cosine schedule
 *
 * Both are weights of the error of ε. The error of v is that of ε divided by √ᾱ, so that a v-prediction model gets the
 * factor times SNR / (SNR + 1).
 */
export type LossWeighting = { type: 'none' } | { type: 'min_snr'; gamma: number } | { type: 'debiased'; maxWeight: number };

export interface ObjectiveOptions {
  prediction: 'epsilon' | 'v_prediction';
  /** `learned`: the second half of the output is trained as the variance (`learned_range`), by the variational bound. */
  variance: 'learned' | 'fixed';
  weighting: LossWeighting;
}

/** Of one sample: where it lies in the run, and what was drawn for it. */
export interface SampleDraw {
  /** Global sample index: the key of its noise. */
  index: number;
  timestep: number;
  /** Stages II and III: timestep to which the low-resolution picture is noised. */
  noiseLevel?: number | undefined;
  /** Factor of both terms, e.g. of prior preservation; default 1. */
  weight?: number | undefined;
}

const MIN_VARIANCE = 1e-20; // of a schedule with one timestep, whose posterior variance is zero throughout

/**
 * The coefficients of the training loss in float64: which x_t the network sees, what it has to predict, and how the terms
 * are weighted. The hybrid loss of learned variances is MSE + T/1000 · VLB (Nichol & Dhariwal 2021, section 3.1, with λ =
 * 0.001; deep-floyd/IF, model/gaussian_diffusion.py, training_losses with RESCALED_MSE).
 */
export class Objective {
  private readonly schedule: NoiseSchedule;
  private readonly lowResSchedule: NoiseSchedule | undefined;

  /**
   * @param scheduler of the model
   * @param lowResScheduler that noises the low-resolution picture; stages II and III
   */
  constructor(scheduler: DDPMConfig, lowResScheduler: DDPMConfig | undefined, private readonly options: ObjectiveOptions) {
    this.schedule = new NoiseSchedule(scheduler);
    this.lowResSchedule = lowResScheduler && new NoiseSchedule(lowResScheduler);
  }

  /** T. */
  get numTrainTimesteps(): number {
    return this.schedule.numTrainTimesteps;
  }

  /** Levels of the low-resolution picture; undefined in stage I. */
  get numNoiseLevels(): number | undefined {
    return this.lowResSchedule?.numTrainTimesteps;
  }

  /**
   * Everything that native/training/trainer.h needs to know of one sample.
   * @throws IFError `INVALID_ARGUMENT` when a timestep or level is out of range, or a level is missing or unexpected
   */
  sample({ index, timestep: t, noiseLevel, weight = 1 }: SampleDraw): TrainingSample {
    const alphaProd = exactAlpha(this.schedule, t, 'timestep');
    const lowRes = this.lowResolution(noiseLevel);
    return {
      index,
      timestep: t,
      imageScale: Math.sqrt(alphaProd),
      noiseScale: Math.sqrt(1 - alphaProd),
      ...lowRes,
      ...this.target(alphaProd),
      weight: weight * this.weight(alphaProd),
      variationalWeight: this.options.variance === 'learned' ? (weight * this.numTrainTimesteps) / 1000 : 0,
      ...this.posterior(t),
      last: t === 0,
    };
  }

  private lowResolution(level: number | undefined): Pick<TrainingSample, 'noiseLevel' | 'lowResScale' | 'lowResNoiseScale'> {
    if ((level === undefined) !== (this.lowResSchedule === undefined)) {
      throw new IFError('INVALID_ARGUMENT', `objective: noiseLevel: expected ${this.lowResSchedule ? 'a level' : 'none in stage I'}, got ${level}`);
    }
    if (level === undefined || !this.lowResSchedule) return { noiseLevel: 0, lowResScale: 1, lowResNoiseScale: 0 };
    const alpha = exactAlpha(this.lowResSchedule, level, 'noiseLevel');
    return { noiseLevel: level, lowResScale: Math.sqrt(alpha), lowResNoiseScale: Math.sqrt(1 - alpha) };
  }

  /** ε, or v = √ᾱ ε − √(1−ᾱ) x0 (Salimans & Ho 2022, section 4); and x̂0 from the prediction of it. */
  private target(alphaProd: number): Pick<TrainingSample, 'targetX0' | 'targetNoise' | 'sampleScale' | 'outputScale'> {
    const sqrtAlpha = Math.sqrt(alphaProd);
    const sqrtBeta = Math.sqrt(1 - alphaProd);
    return this.options.prediction === 'epsilon'
      ? { targetX0: 0, targetNoise: 1, sampleScale: 1 / sqrtAlpha, outputScale: -sqrtBeta / sqrtAlpha }
      : { targetX0: -sqrtBeta, targetNoise: sqrtAlpha, sampleScale: sqrtAlpha, outputScale: -sqrtBeta };
  }

  private weight(alphaProd: number): number {
    const { weighting, prediction } = this.options;
    if (weighting.type === 'none') return 1;
    const snr = alphaProd / (1 - alphaProd);
    const ofNoise = weighting.type === 'min_snr' ? Math.min(snr, weighting.gamma) / snr : Math.min(1 / Math.sqrt(snr), weighting.maxWeight);
    return prediction === 'epsilon' ? ofNoise : (ofNoise * snr) / (snr + 1);
  }

  /** q(x_{t−1} | x_t, x0) (Ho et al. 2020, equations 6 and 7) and the bounds β̃, β of the learned variance. */
  private posterior(t: number): Pick<TrainingSample, 'x0Coef' | 'xCoef' | 'trueLog' | 'minLog' | 'maxLog'> {
    const { betas, alphasCumprod } = this.schedule.exact;
    const beta = betas[t]!;
    const alphaProd = alphasCumprod[t]!;
    const alphaProdPrev = t > 0 ? alphasCumprod[t - 1]! : 1;
    // β̃ is zero at t = 0; IF takes that of t = 1 there
    const logVariance = Math.log(Math.max(this.posteriorVariance(Math.max(t, Math.min(1, betas.length - 1))), MIN_VARIANCE));
    return {
      x0Coef: (beta * Math.sqrt(alphaProdPrev)) / (1 - alphaProd),
      xCoef: ((1 - alphaProdPrev) * Math.sqrt(1 - beta)) / (1 - alphaProd),
      trueLog: logVariance,
      minLog: logVariance,
      maxLog: Math.log(beta),
    };
  }

  private posteriorVariance(t: number): number {
    const { betas, alphasCumprod } = this.schedule.exact;
    return (betas[t]! * (1 - (t > 0 ? alphasCumprod[t - 1]! : 1))) / (1 - alphasCumprod[t]!);
  }
}

function exactAlpha(schedule: NoiseSchedule, t: number, name: string): number {
  const alpha = schedule.exact.alphasCumprod[t];
  if (alpha === undefined) throw new IFError('INVALID_ARGUMENT', `objective: ${name}: expected a whole number from 0 to ${schedule.numTrainTimesteps - 1}, got ${t}`);
  return alpha;
}
