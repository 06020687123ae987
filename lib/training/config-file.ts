import { stat } from 'node:fs/promises';
import path from 'node:path';
import { createJiti } from 'jiti';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { isJsonObject, readJson } from '../models/json.js';
import { defineConfig, type TrainingConfig } from './config.js';
import { resolveConfig, setValue, type ResolvedConfig } from './resolve-config.js';

const EXTENSIONS = ['.ts', '.mts', '.cts', '.js', '.mjs', '.cjs', '.json'];

/**
 * Reads a configuration file: the default export of a TypeScript or JavaScript module, or JSON. Modules may import one
 * another, and `defineConfig` from this package by its name.
 * @returns what the file says, not checked
 * @throws IFError `NOT_FOUND`, `IO`, `INVALID_ARGUMENT` for another extension or without a default export, `FILE_FORMAT` when
 *   the file cannot be run (the first line of the reason is in the message, and where the syntax is wrong the line of the file)
 */
export async function loadConfigFile(file: string): Promise<unknown> {
  const extension = path.extname(file).toLowerCase();
  if (!EXTENSIONS.includes(extension)) throw new IFError('INVALID_ARGUMENT', `configuration: expected a file with the extension ${EXTENSIONS.join(', ')}, got ${file}`);
  try {
    if (!(await stat(file)).isFile()) throw new IFError('INVALID_ARGUMENT', `configuration: ${file} is not a file`);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `configuration: ${file}: no such file`, { cause });
    throw ioError('reading', file, cause);
  }
  if (extension === '.json') return readJson(file);
  const exported = await runModule(path.resolve(file), file);
  if (exported['default'] === undefined) throw new IFError('INVALID_ARGUMENT', `configuration: ${file} has no default export; write \`export default defineConfig({ … })\``);
  return exported['default'];
}

async function runModule(absolute: string, file: string): Promise<Record<string, unknown>> {
  // the package's name means this running copy, wherever the file lies
  const jiti = createJiti(import.meta.url, { fsCache: false, moduleCache: false, interopDefault: false, virtualModules: { 'deepfloyd-if': { defineConfig } } });
  try {
    return await jiti.import<Record<string, unknown>>(absolute);
  } catch (cause) {
    if (cause instanceof IFError) throw cause;
    const [reason, where] = (cause instanceof Error ? cause.message : String(cause)).split('\n');
    const line = /^ParseError: /.test(reason!) ? /:(\d+):\d+$/.exec(where ?? '')?.[1] : undefined; // jiti: reason, then FILE:LINE:COLUMN
    throw new IFError('FILE_FORMAT', `configuration: ${file} could not be run: ${reason!.trim()}${line ? ` at line ${line}` : ''}`, { cause });
  }
}

/**
 * A run's configuration: the file, then each assignment in order, then the overrides, then the checks.
 * @param assignments `key.key=value` each
 * @param overrides keys of the whole, e.g. from options of a command line
 * @throws IFError as loadConfigFile, setValue and resolveConfig
 */
export async function readTrainingConfig(file: string, assignments: readonly string[] = [], overrides: Partial<TrainingConfig> = {}): Promise<ResolvedConfig> {
  const config = assignments.reduce(setValue, await loadConfigFile(file));
  return resolveConfig(isJsonObject(config) ? { ...config, ...overrides } : config, file, path.join('runs', path.basename(file, path.extname(file))));
}
