/**
 * How training timesteps are drawn. Fractions are of the timestep range, 0 = least noise.
 * - `uniform`
 * - `earlier`, `later`: the first (last) `portion` of the timesteps is `multiplier` times as likely as the others
 * - `range`: the timesteps from `begin` to `end` are
 * - `cubic`: t = ⌊(1 − u³) · T⌋, much noise preferred
 * The forms and default values are those of diffengine (models/utils/timesteps).
 */
export type TimestepSampling =
  | { type: 'uniform' }
  | { type: 'earlier' | 'later'; portion: number; multiplier: number }
  | { type: 'range'; begin: number; end: number; multiplier: number }
  | { type: 'cubic' };

/**
 * The timestep of a uniform number, by the inverse of the distribution function.
 * @param total T, the number of timesteps
 * @param u in [0, 1)
 * @returns a whole number from 0 to total − 1
 */
export function drawTimestep(sampling: TimestepSampling, total: number, u: number): number {
  switch (sampling.type) {
    case 'uniform': return Math.floor(u * total);
    case 'earlier': return drawBiased(0, Math.floor(sampling.portion * total), sampling.multiplier, total, u);
    case 'later': return drawBiased(total - Math.floor(sampling.portion * total), total, sampling.multiplier, total, u);
    case 'range': return drawBiased(Math.floor(sampling.begin * total), Math.floor(sampling.end * total), sampling.multiplier, total, u);
    case 'cubic': return Math.min(Math.floor((1 - u ** 3) * total), total - 1);
  }
}

/** Timesteps in [begin, end) are `multiplier` times as likely as the others. */
function drawBiased(begin: number, end: number, multiplier: number, total: number, u: number): number {
  const mass = u * (total + (end - begin) * (multiplier - 1));
  if (mass < begin) return Math.floor(mass);
  const inside = (mass - begin) / multiplier;
  // rounding must not reach beyond the last timestep
  return Math.min(inside < end - begin ? begin + Math.floor(inside) : Math.floor(mass - (end - begin) * (multiplier - 1)), total - 1);
}
