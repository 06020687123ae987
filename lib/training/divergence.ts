import { IFError } from '../errors.js';
import type { TrainingSample } from '../addon.js';

// A main term that rises a hundredfold over its recent mean does not come back. The variational term is no measure: it
// spans four orders of magnitude over the timesteps.
const EXPLOSION = 100;
const WINDOW = 100;
const LEAST = 20;

/** Notices that a run diverges, before the step that would spoil the weights. */
export class DivergenceWatch {
  private readonly recent: number[] = [];

  /**
   * Looks at the terms of one step.
   * @param terms main and variational term of every sample
   * @returns undefined when all is well, else what is wrong
   */
  check(terms: Float32Array, samples: readonly { key: string; draw: TrainingSample }[]): string | undefined {
    for (const [i, { key, draw }] of samples.entries()) {
      const [main, variational] = [terms[2 * i]!, terms[2 * i + 1]!];
      if (Number.isFinite(main) && Number.isFinite(variational)) continue;
      return `the loss of ${key} at timestep ${draw.timestep} is not finite (main term ${main}, variational term ${variational})`;
    }
    let mean = 0;
    for (let i = 0; i < samples.length; i++) mean += terms[2 * i]! / samples.length;
    const usual = this.recent.reduce((sum, value) => sum + value, 0) / this.recent.length;
    if (this.recent.length >= LEAST && mean > EXPLOSION * usual) {
      return `the loss has exploded: ${mean.toPrecision(4)}, the mean of the last ${this.recent.length} steps is ${usual.toPrecision(4)}`;
    }
    this.recent.push(mean);
    if (this.recent.length > WINDOW) this.recent.shift();
    return undefined;
  }
}

/** The end of a run that diverged at a step: what was seen, and what helps. */
export function diverged(step: number, reason: string, lr: number): IFError {
  return new IFError('DIVERGED', `step ${step}: ${reason}; the learning rate is ${lr.toPrecision(3)}. ${step > 1 ? `The checkpoint of step ${step - 1} has the last good weights` : 'No step was done'}. `
    + 'What helps in a new run: a lower optimizer.lr, a longer schedule.warmup, dtype f32');
}
