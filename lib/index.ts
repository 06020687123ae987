/** The public API. */
export { Cascade, type CascadeOptions, type GenerateOptions, type GenerateResult } from './pipelines/cascade.js';
export type { OnProgress, ProgressEvent } from './pipelines/progress.js';
export type { StageSettings } from './pipelines/stage.js';
export type { DType, Precision, T5DType } from './addon.js';
export { IFError, type ErrorCode } from './errors.js';
export { imageAt, type Images } from './tensor.js';
export { writePng } from './image.js';
export { TIMESTEP_PRESETS, type TimestepSpec } from './diffusion/respacing.js';
