import { IFError } from '../errors.js';
import type { BetaSchedule, DDPMConfig } from '../models/scheduler-config.js';

/** Coefficients of x_t = sqrtAlpha * x_0 + sqrtOneMinusAlpha * ε. */
export interface AddNoiseCoefficients {
  sqrtAlpha: number;
  sqrtOneMinusAlpha: number;
}

/**
 * The forward process q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) (Ho et al. 2020, equation 4).
 *
 * The two tables hold float32 values, because diffusers keeps them so and the models were fine-tuned with them: β is
 * computed in float64 and rounded, 1 − β rounded, and the running product kept in float64 and rounded on output (as
 * torch.cumprod does on the CPU). All that is derived from them is float64.
 */
export class NoiseSchedule {
  readonly numTrainTimesteps: number;
  /** β_t for t = 0 … numTrainTimesteps − 1. */
  readonly betas: Float32Array;
  /** ᾱ_t = Π_{s ≤ t} (1 − β_s). */
  readonly alphasCumprod: Float32Array;
  /**
   * Both tables in float64 without rounding, as deep-floyd/IF keeps them (model/gaussian_diffusion.py): the training
   * objective is computed from them, because 1 − ᾱ of the float32 table is off by 7e-4 at the first timesteps.
   */
  readonly exact: { betas: Float64Array; alphasCumprod: Float64Array };

  constructor(config: Pick<DDPMConfig, 'numTrainTimesteps' | 'betaSchedule' | 'betaStart' | 'betaEnd'>) {
    this.numTrainTimesteps = config.numTrainTimesteps;
    const betas = BETAS[config.betaSchedule](config.numTrainTimesteps, config.betaStart, config.betaEnd);
    let exactProduct = 1;
    this.exact = { betas, alphasCumprod: betas.map((beta) => (exactProduct *= 1 - beta)) };
    this.betas = Float32Array.from(betas);
    let product = 1;
    this.alphasCumprod = this.betas.map((beta) => (product *= Math.fround(1 - beta)));
  }

  /**
   * Coefficients that bring a clean picture to noise level `t` (DDPMScheduler.add_noise).
   * @param t a whole number from 0 to numTrainTimesteps − 1
   * @throws IFError `INVALID_ARGUMENT` for any other t
   */
  addNoiseCoefficients(t: number): AddNoiseCoefficients {
    const alpha = this.alphaCumprod(t);
    return { sqrtAlpha: Math.sqrt(alpha), sqrtOneMinusAlpha: Math.sqrt(1 - alpha) };
  }

  /**
   * ᾱ_t.
   * @throws IFError `INVALID_ARGUMENT` unless t is a whole number from 0 to numTrainTimesteps − 1
   */
  alphaCumprod(t: number): number {
    const alpha = this.alphasCumprod[t];
    if (alpha === undefined) {
      throw new IFError('INVALID_ARGUMENT', `noise schedule: t: expected a whole number from 0 to ${this.numTrainTimesteps - 1}, got ${t}`);
    }
    return alpha;
  }
}

const BETAS: Record<BetaSchedule, (steps: number, start: number, end: number) => Float64Array> = {
  squaredcos_cap_v2: cosineBetas,
  linear: linspace,
  scaled_linear: (steps, start, end) => linspace(steps, Math.sqrt(start), Math.sqrt(end)).map((root) => root * root),
};

/** β_t = min(1 − ᾱ(t+1)/ᾱ(t), 0.999) with ᾱ(t) = cos²((t/T + 0.008)/1.008 · π/2) (Nichol & Dhariwal 2021, equation 17). */
function cosineBetas(steps: number): Float64Array {
  const alphaBar = (t: number) => Math.cos(((t / steps + 0.008) / 1.008) * Math.PI / 2) ** 2;
  return Float64Array.from({ length: steps }, (_, t) => Math.min(1 - alphaBar(t + 1) / alphaBar(t), 0.999));
}

/** `steps` values from `start` to `end`, both included. */
function linspace(steps: number, start: number, end: number): Float64Array {
  return Float64Array.from({ length: steps }, (_, i) => (steps === 1 ? start : start + ((end - start) * i) / (steps - 1)));
}
