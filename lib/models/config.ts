// The configuration files of a pipeline folder, typed.
export { readJson } from './json.js';
export { parseModelIndex, type ModelIndex, type StageKind } from './model-index.js';
export { parseDDPMConfig, type DDPMConfig } from './scheduler-config.js';
export { parseT5Config, type T5Config } from './t5-config.js';
export { parseUNetConfig, type UNetConfig } from './unet-config.js';
