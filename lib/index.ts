/** The public API. */
export { Cascade, type CascadeOptions, type GenerateOptions, type GenerateResult } from './pipelines/cascade.js';
export type { OnProgress, ProgressEvent } from './pipelines/progress.js';
export type { StageSettings } from './pipelines/stage.js';
export { mergeLora, parseLoraSpec, type LoraSpec } from './weights/lora.js';
export type { DType, Precision, T5DType } from './addon.js';
export { IFError, type ErrorCode } from './errors.js';
export { imageAt, type Images } from './tensor.js';
export { writePng } from './image.js';
export { TIMESTEP_PRESETS, type TimestepSpec } from './diffusion/respacing.js';
export { defineConfig, type TrainingConfig } from './training/config.js';
export { readTrainingConfig } from './training/config-file.js';
export { train, type TrainOptions } from './training/trainer.js';
export type { TrainingEvent } from './training/events.js';
export type { ResolvedConfig } from './training/resolve-config.js';
export type { DataConfig } from './data/open.js';
