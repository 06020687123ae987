// The configurations that the benchmarks name: those of model-configs.json, or those of a pipeline folder.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { readJson, type JsonObject } from '../lib/models/json.js';

const named = JSON.parse(readFileSync(new URL('model-configs.json', import.meta.url), 'utf8')) as Record<string, JsonObject | undefined>;

/** The configuration of a published model, e.g. `IF-I-XL` or `T5-XXL`; undefined for a folder. */
export function namedConfig(name: string): JsonObject | undefined {
  return named[name];
}

/** The config.json called `name`: of a published model, or of a component of the pipeline folder `name`. */
export async function componentConfig(name: string, component: 'unet' | 'text_encoder'): Promise<unknown> {
  return named[name] ?? readJson(path.join(name, component, 'config.json'));
}
