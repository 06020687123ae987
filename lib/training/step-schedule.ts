export interface LearningRateSchedule {
  type: 'constant' | 'linear' | 'cosine';
  /** Steps over which the rate rises. */
  warmup: number;
}

/**
 * Factor of the learning rate at a step. Warm-up: step / warmup. After it, with p the fraction of the remaining steps that
 * are done before this one: 1, 1 − p, or (1 + cos πp) / 2.
 * @param step from 1
 * @param steps of the whole run
 */
export function learningRateFactor({ type, warmup }: LearningRateSchedule, step: number, steps: number): number {
  if (step <= warmup) return step / warmup;
  const p = Math.min(1, (step - 1 - warmup) / Math.max(1, steps - warmup));
  switch (type) {
    case 'constant': return 1;
    case 'linear': return 1 - p;
    case 'cosine': return (1 + Math.cos(Math.PI * p)) / 2;
  }
}

/**
 * Decay of the average of the weights at a step: min(decay, (1 + n) / (10 + n)) with n the steps done before it
 * (tf.train.ExponentialMovingAverage), so that the first weights are soon forgotten.
 * @param step from 1
 */
export function emaDecay(decay: number, step: number): number {
  const n = step - 1;
  return Math.min(decay, (1 + n) / (10 + n));
}
