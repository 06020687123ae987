import type { DdpmStep } from '../addon.js';
import { IFError } from '../errors.js';
import { parseDDPMConfig, type DDPMConfig } from '../models/scheduler-config.js';
import { NoiseSchedule, type AddNoiseCoefficients } from './noise-schedule.js';
import { parseTimesteps, type TimestepSpec } from './respacing.js';

const MIN_VARIANCE = 1e-20; // DDPMScheduler._get_variance clamps before it takes the logarithm

/** Ancestral sampling (Ho et al. 2020) as diffusers' DDPMScheduler does it: src/diffusers/schedulers/scheduling_ddpm.py. */
export class DDPMScheduler {
  readonly schedule: NoiseSchedule;

  constructor(readonly config: DDPMConfig) {
    this.schedule = new NoiseSchedule(config);
  }

  /**
   * From the content of a `scheduler_config.json`.
   * @param where how messages call the file
   * @throws IFError as parseDDPMConfig
   */
  static fromConfig(json: unknown, where: string): DDPMScheduler {
    return new DDPMScheduler(parseDDPMConfig(json, where));
  }

  /** Whether the model's output has a second half that gives the variance. */
  get learnsVariance(): boolean {
    return this.config.varianceType === 'learned' || this.config.varianceType === 'learned_range';
  }

  /** The timesteps of a run, most noise first; see parseTimesteps. */
  timesteps(spec: TimestepSpec): number[] {
    return parseTimesteps(spec, this.config);
  }

  /** See NoiseSchedule.addNoiseCoefficients. */
  addNoiseCoefficients(t: number): AddNoiseCoefficients {
    return this.schedule.addNoiseCoefficients(t);
  }

  /**
   * The coefficients of the step from `timesteps[index]` to the next timestep, or to the clean picture from the last one,
   * in float64. With x the sample, m the first C channels of the guided model output and v its other C channels:
   *
   *     x0   = threshold(sampleScale * x + outputScale * m)
   *     prev = x0Coef * x0 + xCoef * x + (addNoise ? std * noise : 0)
   *
   * threshold `clip`: x0 is clamped to ±clipRange; `dynamic`: s = clamp(quantile(|x0|, ratio), 1, maxValue) per item, then
   * clamp(x0, ±s) / s. std of variance `fixed`: sigma; `learned_range`: exp((f * maxLog + (1 − f) * minLog) / 2) with
   * f = (v + 1) / 2; `learned`: √v. addNoise is false at t = 0.
   * ᾱ is that of the training schedule; β is the respaced chain's, 1 − ᾱ_t / ᾱ_prev.
   * @param timesteps strictly descending, as timesteps() gives
   * @throws IFError `INVALID_ARGUMENT` when index or a timestep is out of range
   */
  stepCoefficients(timesteps: readonly number[], index: number): DdpmStep {
    const t = timesteps[index];
    if (t === undefined) {
      throw new IFError('INVALID_ARGUMENT', `scheduler step: index: expected a whole number from 0 to ${timesteps.length - 1}, got ${index}`);
    }
    const next = timesteps[index + 1];
    const alphaProd = this.schedule.alphaCumprod(t);
    const alphaProdPrev = next === undefined ? 1 : this.schedule.alphaCumprod(next);
    const betaProd = 1 - alphaProd;
    const betaProdPrev = 1 - alphaProdPrev;
    const alpha = alphaProd / alphaProdPrev;
    const beta = 1 - alpha;
    // β̃_t (Ho et al. 2020, equation 7)
    const posteriorVariance = Math.max((betaProdPrev / betaProd) * beta, MIN_VARIANCE);
    return {
      ...this.originalSample(alphaProd),
      ...this.thresholding(),
      // μ̃_t (equation 7)
      x0Coef: (Math.sqrt(alphaProdPrev) * beta) / betaProd,
      xCoef: (Math.sqrt(alpha) * betaProdPrev) / betaProd,
      addNoise: t > 0,
      ...this.variance(posteriorVariance, beta),
    };
  }

  /** x0 from the model's output: equation 15 for ε, Salimans & Ho 2022 (section 4) for v. */
  private originalSample(alphaProd: number): Pick<DdpmStep, 'sampleScale' | 'outputScale'> {
    const sqrtAlpha = Math.sqrt(alphaProd);
    const sqrtBeta = Math.sqrt(1 - alphaProd);
    switch (this.config.predictionType) {
      case 'epsilon': return { sampleScale: 1 / sqrtAlpha, outputScale: -sqrtBeta / sqrtAlpha };
      case 'sample': return { sampleScale: 0, outputScale: 1 };
      case 'v_prediction': return { sampleScale: sqrtAlpha, outputScale: -sqrtBeta };
    }
  }

  private thresholding(): Pick<DdpmStep, 'threshold' | 'clipRange' | 'ratio' | 'maxValue'> {
    const { thresholding, clipSample, clipSampleRange, dynamicThresholdingRatio, sampleMaxValue } = this.config;
    return {
      threshold: thresholding ? 'dynamic' : clipSample ? 'clip' : 'none',
      clipRange: clipSampleRange,
      ratio: dynamicThresholdingRatio,
      maxValue: sampleMaxValue,
    };
  }

  /** β̃ and β are the lower and upper bound of the reverse variance (Nichol & Dhariwal 2021, equation 15). */
  private variance(posterior: number, beta: number): Pick<DdpmStep, 'variance' | 'sigma' | 'minLog' | 'maxLog'> {
    switch (this.config.varianceType) {
      // The log forms are exp(log(variance) / 2), which is the same number.
      case 'fixed_small':
      case 'fixed_small_log':
        return { variance: 'fixed', sigma: Math.sqrt(posterior), minLog: 0, maxLog: 0 };
      case 'fixed_large':
      case 'fixed_large_log':
        return { variance: 'fixed', sigma: Math.sqrt(beta), minLog: 0, maxLog: 0 };
      case 'learned':
        return { variance: 'learned', sigma: 0, minLog: 0, maxLog: 0 };
      case 'learned_range':
        return { variance: 'learned_range', sigma: 0, minLog: Math.log(posterior), maxLog: Math.log(beta) };
    }
  }
}
