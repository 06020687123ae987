// The small files of a diffusers pipeline folder of an IF stage, as diffusers' save_pretrained writes them.
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { writeFileAtomic } from '../files.js';
import type { JsonObject } from '../models/json.js';
import type { StageKind } from '../models/model-index.js';
import { DIFFUSERS_VERSION } from '../models/unet-config-json.js';

/** Writes a JSON file with an indent of two; its folder is made. */
export async function writeJson(file: string, value: unknown): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFileAtomic(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** A DDPMScheduler on the cosine schedule: scripts/convert_if.py of diffusers, and the published folders of DeepFloyd. */
function ddpm(fields: JsonObject): JsonObject {
  return {
    _class_name: 'DDPMScheduler', _diffusers_version: DIFFUSERS_VERSION,
    beta_end: 0.02, beta_schedule: 'squaredcos_cap_v2', beta_start: 0.0001, clip_sample: true, clip_sample_range: 1,
    dynamic_thresholding_ratio: 0.995, num_train_timesteps: 1000, prediction_type: 'epsilon', rescale_betas_zero_snr: false,
    sample_max_value: 1, steps_offset: 0, thresholding: false, timestep_spacing: 'leading', trained_betas: null, variance_type: 'fixed_small',
    ...fields,
  };
}

/** `scheduler/scheduler_config.json` of the published stages: dynamic thresholding up to 1.5 in stage I, plain clipping above. */
export function denoisingScheduler(kind: StageKind): JsonObject {
  return ddpm({ dynamic_thresholding_ratio: 0.95, sample_max_value: kind === 'base' ? 1.5 : 1, thresholding: true, variance_type: 'learned_range' });
}

/** `image_noising_scheduler/scheduler_config.json`: noises the low-resolution picture. */
export function imageNoisingScheduler(): JsonObject {
  return ddpm({});
}

/** `model_index.json`. @param text whether the folder has text_encoder and tokenizer */
export function pipelineIndex(kind: StageKind, text: boolean): JsonObject {
  const none = [null, null];
  return {
    _class_name: kind === 'base' ? 'IFPipeline' : 'IFSuperResolutionPipeline',
    _diffusers_version: DIFFUSERS_VERSION,
    feature_extractor: none,
    ...(kind === 'base' ? {} : { image_noising_scheduler: ['diffusers', 'DDPMScheduler'] }),
    requires_safety_checker: false,
    safety_checker: none,
    scheduler: ['diffusers', 'DDPMScheduler'],
    text_encoder: text ? ['transformers', 'T5EncoderModel'] : none,
    tokenizer: text ? ['transformers', 'T5Tokenizer'] : none,
    unet: ['diffusers', 'UNet2DConditionModel'],
    watermarker: none,
  };
}
