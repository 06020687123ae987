import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { addon } from '../../lib/addon.js';
import { splitIntoShards, writeModel, writeSafetensors, type WrittenTensor } from '../../lib/weights/safetensors-writer.js';
import { openSafetensors } from '../../lib/weights/tensor-source.js';
import { expectIFError } from '../support/expect-error.js';
import { golden, readSafetensors } from '../support/safetensors.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-writer-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const at = (name: string): string => path.join(dir, name);

const bytes = (values: number[]): Buffer => Buffer.from(Float32Array.from(values).buffer);
function tensor(name: string, shape: number[], values: number[], dtype: WrittenTensor['dtype'] = 'f32'): WrittenTensor {
  return { name, shape, dtype, read: async () => ({ bytes: bytes(values), dtype: 'f32' }) };
}

test('a recorded file, written again tensor by tensor, has the same bytes', async () => {
  const file = golden('tiny-if-II', 'unet', 'diffusion_pytorch_model.safetensors');
  const source = await openSafetensors(file);
  const tensors = [...source.specs.values()].reverse().map((spec) => ({ ...spec, read: async () => ({ bytes: await source.read(spec.name), dtype: spec.dtype }) }));
  await writeSafetensors(at('x.safetensors'), tensors, Object.entries(source.metadata));
  await source.close();
  expect(readFileSync(at('x.safetensors')).equals(readFileSync(file))).toBe(true);
});

test('floating types are converted; scalars; progress in bytes', async () => {
  const progress: [number, number][] = [];
  await writeModel(dir, 'model', [tensor('a', [2], [1, 1 / 3], 'bf16'), tensor('b', [], [2.5], 'f16'), tensor('c', [1, 1], [-0]), tensor('d', [0, 3], [], 'bf16')], { onProgress: (done, total) => progress.push([done, total]) });
  const written = readSafetensors(at('model.safetensors'));
  expect([...written.get('a')!.data as Float32Array]).toEqual([1, 0.333984375]);
  expect(written.get('b')).toMatchObject({ dtype: 'F16', shape: [], data: Float32Array.of(2.5) });
  expect(Object.is((written.get('c')!.data as Float32Array)[0], -0)).toBe(true);
  expect(written.get('d')).toMatchObject({ dtype: 'BF16', shape: [0, 3] });
  expect(progress).toEqual([[4, 10], [6, 10], [10, 10], [10, 10]]);
});

describe('shards', () => {
  const sized = (...sizes: number[]): WrittenTensor[] => sizes.map((size, i) => tensor(`t${i}`, [size], new Array<number>(size).fill(i)));
  test('in order, and a tensor larger than a shard alone, as huggingface_hub splits', () => {
    const names = (limit: number, ...sizes: number[]): string[][] => splitIntoShards(sized(...sizes), 4 * limit).map((shard) => shard.map(({ name }) => name));
    expect(names(10, 6, 6, 2, 6, 2, 2)).toEqual([['t0'], ['t1', 't2'], ['t3', 't4', 't5']]); // its docstring's example
    expect(names(10, 4, 12, 4)).toEqual([['t1'], ['t0', 't2']]);
    expect(names(10, 10, 10)).toEqual([['t0'], ['t1']]);
    expect(names(100, 1, 2)).toEqual([['t0', 't1']]);
    expect(names(10)).toEqual([[]]);
  });
  test('their index', async () => {
    expect(await writeModel(dir, 'model', sized(3, 3, 1), { maxShardBytes: 16, metadata: { format: 'pt', note: 'x' } })).toEqual(['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json']);
    expect(readFileSync(at('model.safetensors.index.json'), 'utf8')).toBe(`{
  "metadata": {
    "total_size": 28
  },
  "weight_map": {
    "t0": "model-00001-of-00002.safetensors",
    "t1": "model-00002-of-00002.safetensors",
    "t2": "model-00002-of-00002.safetensors"
  }
}
`);
    const source = await openSafetensors(at('model-00002-of-00002.safetensors'));
    expect(source.metadata).toEqual({ format: 'pt', note: 'x' });
    await source.close();
  });
});

describe('what is refused, leaving nothing', () => {
  afterEach(() => expect(readdirSync(dir)).toEqual([]));
  test('types, values and names', async () => {
    await expectIFError('UNSUPPORTED', () => writeModel(dir, 'm', [tensor('a', [1], [1], 'f64')]), '"a" is f64');
    await expectIFError('WEIGHTS', () => writeModel(dir, 'm', [tensor('a', [2], [1, 65_520], 'f16')]), '"a"', '±65504');
    await writeModel(dir, 'm', [tensor('a', [3], [65_519, NaN, -Infinity], 'f16')]); // NaN and infinity are what they were
    expect([...readSafetensors(at('m.safetensors')).get('a')!.data as Float32Array]).toEqual([65_504, NaN, -Infinity]);
    rmSync(at('m.safetensors'));
    await expectIFError('INVALID_ARGUMENT', () => writeModel(dir, 'm', [tensor('a', [1], [1]), tensor('a', [1], [1])]), 'two tensors are called "a"');
    await expectIFError('IO', () => writeModel(at('none'), 'm', [tensor('a', [1], [1])]), 'none');
  });
  test('a read that fails', async () => {
    const failing: WrittenTensor = { name: 'b', shape: [1], dtype: 'f32', read: async () => { throw new RangeError('as the disk says'); } };
    await expect(writeModel(dir, 'm', [tensor('a', [1], [1]), failing])).rejects.toThrow('as the disk says');
  });
  test('the native commands', async () => {
    const open = (): Promise<ReturnType<typeof addon.safetensorsWriter> extends Promise<infer W> ? W : never> => addon.safetensorsWriter(at('x'), [{ name: 'a', dtype: 'f32', shape: [2] }, { name: 'b', dtype: 'i64', shape: [1] }], []);
    const writer = await open();
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsWrite(writer, 'z', bytes([1, 2]), 'f32'), '"z" was not declared');
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsWrite(writer, 'a', bytes([1]), 'f32'), 'needs 8 bytes, got 4');
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsWrite(writer, 'a', bytes([1]), 'f16').then(() => addon.safetensorsWrite(writer, 'b', bytes([1, 2]), 'f32')), 'needs 4 bytes, got 8');
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsWrite(writer, 'b', bytes([1]), 'f32'), 'copy');
    await expectIFError('UNSUPPORTED', () => addon.safetensorsWrite(writer, 'a', bytes([1, 2]), 'f64' as never), 'f64 cannot be written');
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsCommit(writer), '"b" was not written');
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsWrite({} as never, 'a', bytes([1, 2]), 'f32'), 'expected a SafetensorsWriter handle');
    addon.dispose(writer);
    await expectIFError('INVALID_ARGUMENT', () => addon.safetensorsCommit(writer), 'was disposed');
    await expectIFError('NOT_FOUND', () => addon.safetensorsInfo(at('none')), 'no such file');
  });
});
