import { existsSync } from 'node:fs';
import path from 'node:path';
import type { TimestepSpec } from '../diffusion/respacing.js';
import { IFError } from '../errors.js';
import { readJson } from '../models/config.js';
import type { StageFolder } from '../weights/folder.js';
import type { StageSettings } from './stage.js';

export type SampleDefaults = StageSettings;

/** File of a pipeline folder with the settings that suit its model; optional, not part of diffusers' layout. */
export const SAMPLE_DEFAULTS_FILE = 'sampling_defaults.json';

// diffusers: pipeline_if.py and pipeline_if_superresolution.py, defaults of __call__
const BASE: SampleDefaults = { timesteps: 100, guidance: 7, noiseLevel: 250 };
const UPSCALER: SampleDefaults = { timesteps: 50, guidance: 4, noiseLevel: 250 };

/**
 * Settings of a stage where the caller gives none: those of `sampling_defaults.json` ({ "timesteps", "guidance",
 * "noise_level" }, all optional) in its folder, else diffusers'.
 * @throws IFError `FILE_FORMAT` naming the field
 */
export async function sampleDefaults(stage: { upscales: boolean; folder: StageFolder }): Promise<SampleDefaults> {
  const defaults = stage.upscales ? UPSCALER : BASE;
  const file = path.join(stage.folder.dir, SAMPLE_DEFAULTS_FILE);
  if (!existsSync(file)) return defaults;
  const json = await readJson(file);
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw new IFError('FILE_FORMAT', `${file}: expected an object`);
  const known = new Set(['timesteps', 'guidance', 'noise_level']);
  for (const key of Object.keys(json)) if (!known.has(key)) throw new IFError('FILE_FORMAT', `${file}: unknown field "${key}" (known: ${[...known].join(', ')})`);
  const { timesteps, guidance, noise_level: noiseLevel } = json as Record<string, unknown>;
  const number = (name: string, value: unknown, fallback: number): number => {
    if (value === undefined) return fallback;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw new IFError('FILE_FORMAT', `${file}: ${name}: expected a number`);
    return value;
  };
  const isSpec = (value: unknown): value is TimestepSpec => typeof value === 'number' || typeof value === 'string' || (Array.isArray(value) && value.every((t) => typeof t === 'number'));
  if (timesteps !== undefined && !isSpec(timesteps)) throw new IFError('FILE_FORMAT', `${file}: timesteps: expected a number, a schedule's name or a list of numbers`);
  return {
    timesteps: timesteps ?? defaults.timesteps,
    guidance: number('guidance', guidance, defaults.guidance),
    noiseLevel: number('noise_level', noiseLevel, defaults.noiseLevel),
  };
}
