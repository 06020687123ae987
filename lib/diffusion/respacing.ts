import { IFError } from '../errors.js';
import type { DDPMConfig } from '../models/scheduler-config.js';
import { roundHalfToEven } from '../round.js';
import { nearestName } from '../suggest.js';

/** What a caller may say about the timesteps of a run; see parseTimesteps. */
export type TimestepSpec = string | number | readonly number[];

/** The parts of a scheduler configuration that decide where timesteps lie. */
export type SpacingConfig = Pick<DDPMConfig, 'numTrainTimesteps' | 'timestepSpacing' | 'stepsOffset'>;

const DEFAULT_SPACING: SpacingConfig = { numTrainTimesteps: 1000, timestepSpacing: 'leading', stepsOffset: 0 };

/** Named schedules of IF: steps per section of the noise range, least noise first (deep-floyd/IF, model/respace.py and pipelines). */
const PRESETS: Readonly<Record<string, readonly number[]>> = {
  fast27: [10, 10, 3, 2, 2],
  smart27: [7, 4, 2, 1, 2, 4, 7],
  smart50: [10, 6, 4, 3, 2, 2, 3, 4, 6, 10],
  smart100: [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13],
  smart185: [1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20],
  super27: [1, 1, 1, 1, 1, 1, 1, 2, 5, 13],
  super40: [2, 2, 2, 2, 2, 2, 3, 4, 6, 15],
  super100: [4, 4, 6, 6, 8, 8, 10, 10, 14, 30],
};

/** The names that parseTimesteps knows: fast27, smart27, smart50, smart100, smart185, super27, super40, super100. */
export const TIMESTEP_PRESETS: readonly string[] = Object.keys(PRESETS);

/**
 * The timesteps of a run, most noise first.
 *
 * @param spec one of
 *   - a number N: N steps, spaced as the scheduler configuration says (diffusers' `num_inference_steps`)
 *   - the name of a preset, e.g. `smart50`
 *   - section counts, e.g. `10,10,3,2,2` or `150` (IF's `timestep_respacing`): the range is cut into as many equal
 *     sections, least noise first, each with that many evenly spaced steps; 0 leaves a section out
 *   - a list of timesteps, strictly descending
 * @param spacing what the scheduler configuration says; 1000 steps, `leading`, no offset when left out
 * @returns strictly descending whole numbers from 0 to numTrainTimesteps − 1
 * @throws IFError `INVALID_ARGUMENT` for unknown names, counts out of range and lists that are not strictly descending
 */
export function parseTimesteps(spec: TimestepSpec, spacing: SpacingConfig = DEFAULT_SPACING): number[] {
  if (typeof spec === 'number') return spacedTimesteps(spec, spacing);
  if (typeof spec === 'string') return sectionTimesteps(parseSections(spec), spacing.numTrainTimesteps);
  return checkedList([...spec], spacing.numTrainTimesteps);
}

/**
 * `count` steps over the whole range (Lin et al. 2024, table 2), numerically as DDPMScheduler.set_timesteps.
 * @throws IFError `INVALID_ARGUMENT` unless count is a whole number from 1 to numTrainTimesteps
 */
export function spacedTimesteps(count: number, { numTrainTimesteps: total, timestepSpacing, stepsOffset }: SpacingConfig): number[] {
  if (!(Number.isInteger(count) && count >= 1 && count <= total)) {
    throw new IFError('INVALID_ARGUMENT', `timesteps: the number of steps: expected a whole number from 1 to ${total}, got ${count}`);
  }
  const indices = Array.from({ length: count }, (_, i) => i);
  switch (timestepSpacing) {
    case 'leading': {
      const stride = Math.floor(total / count);
      return checkedList(indices.reverse().map((i) => i * stride + stepsOffset), total);
    }
    case 'linspace': {
      const stride = (total - 1) / Math.max(count - 1, 1);
      return indices.reverse().map((i) => (i > 0 && i === count - 1 ? total - 1 : roundHalfToEven(i * stride)));
    }
    case 'trailing': {
      // numpy.arange takes the difference of its first two values. For some counts (61, 103, …) its rounding adds a value
      // after the last, timestep −1; that is left out.
      const stride = total - (total - total / count);
      return indices.map((i) => roundHalfToEven(total - i * stride) - 1);
    }
  }
}

/** Reads a preset's name or a list of section counts. */
function parseSections(spec: string): readonly number[] {
  const text = spec.trim();
  if (Object.hasOwn(PRESETS, text)) return PRESETS[text]!;
  if (/^\d+(\s*,\s*\d+)*$/.test(text)) return text.split(',').map(Number);
  const meant = nearestName(text, TIMESTEP_PRESETS);
  throw new IFError('INVALID_ARGUMENT', `timesteps: unknown schedule ${JSON.stringify(text.slice(0, 60))}`
    + `${meant ? `; did you mean "${meant}"?` : ''} (known: ${TIMESTEP_PRESETS.join(', ')}, or section counts such as 10,10,3,2,2)`);
}

/**
 * IF's respacing (deep-floyd/IF, model/respace.py, space_timesteps): section i of k has ⌊T/k⌋ timesteps (one more for the
 * first T mod k sections), and `counts[i]` of them are used, from its first to its last, halves rounded to even.
 * @throws IFError `INVALID_ARGUMENT` when a section has fewer timesteps than its count, or no step is left
 */
export function sectionTimesteps(counts: readonly number[], total: number): number[] {
  if (counts.length > total) {
    throw new IFError('INVALID_ARGUMENT', `timesteps: sections: expected at most ${total}, got ${counts.length}`);
  }
  const ascending: number[] = [];
  let start = 0;
  counts.forEach((count, i) => {
    const size = Math.floor(total / counts.length) + (i < total % counts.length ? 1 : 0);
    if (!(Number.isInteger(count) && count >= 0 && count <= size)) {
      throw new IFError('INVALID_ARGUMENT', `timesteps: section ${i + 1} of ${counts.length}: expected a whole number of steps from 0 to ${size}, got ${count}`);
    }
    const stride = count <= 1 ? 1 : (size - 1) / (count - 1);
    let position = 0; // a running sum, as there: it decides how halves fall
    for (let n = 0; n < count; n++, position += stride) ascending.push(start + roundHalfToEven(position));
    start += size;
  });
  if (ascending.length < 1) throw new IFError('INVALID_ARGUMENT', 'timesteps: expected at least one step, got 0 in every section');
  return ascending.reverse();
}

function checkedList(timesteps: number[], total: number): number[] {
  if (timesteps.length < 1) throw new IFError('INVALID_ARGUMENT', 'timesteps: expected at least one timestep, got an empty list');
  timesteps.forEach((t, i) => {
    if (!(Number.isInteger(t) && t >= 0 && t < total)) {
      throw new IFError('INVALID_ARGUMENT', `timesteps[${i}]: expected a whole number from 0 to ${total - 1}, got ${t}`);
    }
    if (i > 0 && !(t < timesteps[i - 1]!)) {
      throw new IFError('INVALID_ARGUMENT', `timesteps: expected strictly descending values, got ${timesteps[i - 1]} before ${t} at index ${i}`);
    }
  });
  return timesteps;
}
