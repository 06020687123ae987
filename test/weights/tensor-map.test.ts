import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parseT5Config } from '../../lib/models/t5-config.js';
import { parseUNetConfig, type UNetConfig } from '../../lib/models/unet-config.js';
import { compareTensors, requireTensors } from '../../lib/weights/tensor-check.js';
import { diffusersTensors, joinParts, takePart, unetTable, type TensorRow } from '../../lib/weights/tensor-map.js';
import { readOriginalConfig } from '../../lib/weights/convert.js';
import { t5Tensors } from '../../lib/weights/t5-tensors.js';
import { openStateDict } from '../../lib/weights/tensor-source.js';
import type { TensorSpec } from '../../lib/weights/file-dtype.js';
import { expectIFError } from '../support/expect-error.js';
import { golden, readSafetensors } from '../support/safetensors.js';

const json = (...parts: string[]): unknown => JSON.parse(readFileSync(golden(...parts), 'utf8'));
const unet = (...parts: string[]): UNetConfig => parseUNetConfig(json(...parts, 'config.json'), parts.join('/'));
const sorted = (tensors: Iterable<{ name: string; shape: readonly number[] }>): [string, readonly number[]][] =>
  [...tensors].map(({ name, shape }): [string, readonly number[]] => [name, shape]).sort(([a], [b]) => (a < b ? -1 : 1));

describe('the diffusers side', () => {
  test.each([['tiny-if-I', 'unet'], ['tiny-if-II', 'unet'], ['unet_cross_only'], ['training', 'unet'], ['../../models/if-emoji', 'unet']])('every name and shape of %s/%s', (...parts) => {
    const stored = readSafetensors(golden(...parts, 'diffusion_pytorch_model.safetensors'));
    expect(sorted(diffusersTensors(unetTable(unet(...parts))))).toEqual(sorted([...stored].map(([name, { shape }]) => ({ name, shape }))));
  });

  test('in the order of the state dict, with per-block only_cross_attention', () => {
    const { config, parameters } = json('wide.json') as { config: unknown; parameters: [string, number[]][] };
    expect(diffusersTensors(unetTable(parseUNetConfig(config, 'wide'))).map(({ name, shape }) => [name, shape])).toEqual(parameters);
  });

  test.each(['IF-I-M', 'IF-I-L', 'IF-I-XL', 'IF-II-L'])('%s: as many parameters as published', (name) => {
    const configs = JSON.parse(readFileSync('bench/model-configs.json', 'utf8')) as Record<string, unknown>;
    const parameters = diffusersTensors(unetTable(parseUNetConfig(configs[name], name))).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    const published = { 'IF-I-M': 0.4e9, 'IF-I-L': 0.9e9, 'IF-I-XL': 4.3e9, 'IF-II-L': 1.2e9 }[name]!; // deep-floyd/IF README, two digits
    expect(Math.abs(parameters / published - 1)).toBeLessThan(0.1);
  });

  test('the text encoder', () => {
    const stored = readSafetensors(golden('tiny-if-I', 'text_encoder', 'model.safetensors'));
    expect(sorted(t5Tensors(parseT5Config(json('tiny-if-I', 'text_encoder', 'config.json'), 't5')))).toEqual(sorted([...stored].map(([name, { shape }]) => ({ name, shape }))));
  });
});

test.each(['I', 'II'])('the original side: every name and shape of checkpoint %s', async (stage) => {
  const source = await openStateDict(golden('original', stage, 'pytorch_model.bin'));
  const table = unetTable(await readOriginalConfig(golden('original', stage, 'config.yml')));
  expect(sorted(table.map((row) => row.original))).toEqual(sorted(source.specs.values()));
  await source.close();
});

describe('interleaved heads', () => {
  // two heads of width 2: rows q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1 (QKVAttention.forward reshapes to heads first)
  const row: TensorRow = {
    original: { name: 'qkv', shape: [12, 3, 1] }, chunk: 2,
    parts: ['q', 'k', 'v'].map((name) => ({ name, shape: [4, 3] })),
  };
  const rows = (...values: number[]): Buffer => Buffer.concat(values.map((value) => Buffer.alloc(6, value))); // 3 × float16
  test('take and join are inverse', () => {
    const whole = rows(0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23);
    const parts = [0, 1, 2].map((part) => takePart(row, whole, part));
    expect(parts).toEqual([rows(0, 1, 2, 3), rows(10, 11, 12, 13), rows(20, 21, 22, 23)]);
    expect(joinParts(row, parts)).toEqual(whole);
  });
  test('one part is the whole', () => {
    const single: TensorRow = { original: { name: 'a', shape: [2, 3, 1] }, parts: [{ name: 'b', shape: [2, 3] }], chunk: 2 };
    expect(takePart(single, rows(1, 2), 0)).toEqual(rows(1, 2));
    expect(joinParts(single, [rows(1, 2)])).toEqual(rows(1, 2));
  });
});

test('what is missing, unexpected and misshapen is said at once', async () => {
  const specs = new Map<string, TensorSpec>([
    { name: 'a', dtype: 'f32', shape: [2] } as const, { name: 'b', dtype: 'f16', shape: [3, 1] } as const,
    { name: 'c', dtype: 'i64', shape: [1] } as const, { name: 'alias', dtype: 'bf16', shape: [4] } as const, { name: 'x', dtype: 'f32', shape: [] } as const,
  ].map((spec) => [spec.name, spec]));
  const expected = [{ name: 'a', shape: [2] }, { name: 'b', shape: [1, 3] }, { name: 'c', shape: [1] }, { name: 'd', shape: [4] }, { name: 'e', shape: [5] }];
  expect(compareTensors(specs, expected, { alias: 'd' })).toEqual({
    missing: ['e'], unexpected: ['x'],
    misshapen: [{ name: 'b', expected: [1, 3], got: [3, 1], dtype: 'f16' }, { name: 'c', expected: [1], got: [1], dtype: 'i64' }],
  });
  await expectIFError('WEIGHTS', () => requireTensors(specs, expected, 'here', { alias: 'd' }), 'here: ', '1 missing: e', 'b (expected (1, 3), got (3, 1) f16), c (expected (1), got (1) i64)', '1 unexpected: x');
  specs.delete('c');
  requireTensors(specs, [...specs.values()].map(({ name, shape }) => ({ name, shape: [...shape] })), 'here');
});
