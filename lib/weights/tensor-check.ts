import { IFError } from '../errors.js';
import { firstNames } from '../suggest.js';
import { isWeightDType, shapeText, type TensorSpec } from './file-dtype.js';
import type { NamedShape } from './tensor-map.js';

export interface TensorDifferences {
  missing: string[];
  unexpected: string[];
  /** Of another shape, or not of a floating type. */
  misshapen: { name: string; expected: readonly number[]; got: readonly number[]; dtype: string }[];
}

/**
 * How the tensors of a file differ from those that a configuration asks for.
 * @param aliases other name → the name in `expected`
 */
export function compareTensors(specs: ReadonlyMap<string, TensorSpec>, expected: readonly NamedShape[], aliases: Readonly<Record<string, string>> = {}): TensorDifferences {
  const shapes = new Map(expected.map(({ name, shape }) => [name, shape]));
  const found = new Set<string>();
  const result: TensorDifferences = { missing: [], unexpected: [], misshapen: [] };
  for (const [name, spec] of specs) {
    const meant = shapes.has(name) ? name : aliases[name];
    const shape = meant === undefined ? undefined : shapes.get(meant);
    if (meant === undefined || !shape) {
      result.unexpected.push(name);
      continue;
    }
    found.add(meant);
    if (shapeText(spec.shape) !== shapeText(shape) || !isWeightDType(spec.dtype)) {
      result.misshapen.push({ name, expected: shape, got: spec.shape, dtype: spec.dtype });
    }
  }
  result.missing = expected.map(({ name }) => name).filter((name) => !found.has(name));
  return result;
}

/**
 * Refuses tensors that do not fit.
 * @throws IFError `WEIGHTS` with all of them
 */
export function requireTensors(specs: ReadonlyMap<string, TensorSpec>, expected: readonly NamedShape[], where: string, aliases: Readonly<Record<string, string>> = {}): void {
  const { missing, unexpected, misshapen } = compareTensors(specs, expected, aliases);
  const misfits = misshapen.map(({ name, expected: shape, got, dtype }) => `${name} (expected ${shapeText(shape)}, got ${shapeText(got)} ${dtype})`);
  const parts = ([[missing, 'missing'], [misfits, 'of another shape or type'], [unexpected, 'unexpected']] as const)
    .filter(([names]) => names.length > 0).map(([names, what]) => `${names.length} ${what}: ${firstNames(names)}`);
  if (parts.length > 0) throw new IFError('WEIGHTS', `${where}: the tensors do not fit the config (do both belong to the same model?): ${parts.join('; ')}`);
}
