import { ConfigReader } from './config-reader.js';

export type BetaSchedule = 'squaredcos_cap_v2' | 'linear' | 'scaled_linear';
export type VarianceType = 'fixed_small' | 'fixed_small_log' | 'fixed_large' | 'fixed_large_log' | 'learned' | 'learned_range';
export type PredictionType = 'epsilon' | 'sample' | 'v_prediction';
export type TimestepSpacing = 'leading' | 'linspace' | 'trailing';

/** A diffusers DDPMScheduler, every value explicit. */
export interface DDPMConfig {
  numTrainTimesteps: number;
  betaStart: number;
  betaEnd: number;
  betaSchedule: BetaSchedule;
  varianceType: VarianceType;
  predictionType: PredictionType;
  /** Clamp the predicted picture to ±clipSampleRange; not used with `thresholding`. */
  clipSample: boolean;
  clipSampleRange: number;
  /** Dynamic thresholding (Saharia et al. 2022, section 2.3). */
  thresholding: boolean;
  dynamicThresholdingRatio: number;
  sampleMaxValue: number;
  timestepSpacing: TimestepSpacing;
  stepsOffset: number;
}

const names = <T extends string>(...values: T[]): Map<string | null, T> => new Map(values.map((value) => [value, value]));
const BETA_SCHEDULES = names('squaredcos_cap_v2', 'linear', 'scaled_linear');
const VARIANCE_TYPES = names('fixed_small', 'fixed_small_log', 'fixed_large', 'fixed_large_log', 'learned', 'learned_range');
const PREDICTION_TYPES = names('epsilon', 'sample', 'v_prediction');
const SPACINGS = names('leading', 'linspace', 'trailing');

/**
 * Reads a diffusers `scheduler_config.json` of a DDPMScheduler. Absent fields have the defaults of DDPMScheduler.__init__
 * (src/diffusers/schedulers/scheduling_ddpm.py). Fields of other schedulers are ignored, as diffusers does: the
 * configurations are exchanged between the classes, and the published IF files carry solver fields.
 * @param json the parsed file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT` for wrong types and ranges; `UNSUPPORTED`, naming field, value and what is supported, for
 *   any other scheduler or mode
 */
export function parseDDPMConfig(json: unknown, where: string): DDPMConfig {
  const r = new ConfigReader(json, where);
  r.className('DDPMScheduler');
  r.only('trained_betas', null, null);
  r.only('rescale_betas_zero_snr', false, false);
  const choice = <T>(key: string, fallback: string, table: ReadonlyMap<string | null, T>): T => r.choice(key, r.raw(key, fallback), table);
  const beta = { min: 1e-9, max: 0.999 };
  const config: DDPMConfig = {
    numTrainTimesteps: r.integer('num_train_timesteps', 1000, { min: 1, max: 100000 }),
    betaStart: r.number('beta_start', 0.0001, beta),
    betaEnd: r.number('beta_end', 0.02, beta),
    betaSchedule: choice('beta_schedule', 'linear', BETA_SCHEDULES),
    varianceType: choice('variance_type', 'fixed_small', VARIANCE_TYPES),
    predictionType: choice('prediction_type', 'epsilon', PREDICTION_TYPES),
    clipSample: r.boolean('clip_sample', true),
    clipSampleRange: r.number('clip_sample_range', 1, { min: 1e-6, max: 1e6 }),
    thresholding: r.boolean('thresholding', false),
    dynamicThresholdingRatio: r.number('dynamic_thresholding_ratio', 0.995, { min: 0, max: 1 }),
    sampleMaxValue: r.number('sample_max_value', 1, { min: 1, max: 1e6 }),
    timestepSpacing: choice('timestep_spacing', 'leading', SPACINGS),
    stepsOffset: r.integer('steps_offset', 0, { min: 0, max: 100000 }),
  };
  return config;
}
