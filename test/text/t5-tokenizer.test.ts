import { createHash } from 'node:crypto';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { T5Tokenizer } from '../../lib/text/t5-tokenizer.js';

const golden = path.join(import.meta.dirname, '../golden');
const spieceDir = path.join(golden, 'tokenizer/dir');
const jsonDir = path.join(golden, 'tiny-if-I/tokenizer');

interface Case {
  text: string;
  ids: number[];
  ids77: number[];
  mask77: number[];
}

let cases: Case[];
let scratch: string;
beforeAll(async () => {
  cases = JSON.parse(await readFile(path.join(golden, 'tokenizer/cases.json'), 'utf8')) as Case[];
  scratch = await mkdtemp(path.join(tmpdir(), 't5-tokenizer-'));
});
afterAll(() => rm(scratch, { recursive: true }));

describe.each([['spiece.model', spieceDir], ['tokenizer.json', jsonDir]])('T5Tokenizer from %s', (file, dir) => {
  let tokenizer: T5Tokenizer;
  beforeAll(async () => {
    tokenizer = await T5Tokenizer.load(dir);
  });

  it('gives the ids of sentencepiece for every golden text', () => {
    expect(cases.length).toBe(332);
    expect(cases.map(({ text }) => tokenizer.encode(text))).toEqual(cases.map(({ ids }) => ids));
  });

  it('gives the golden ids and masks of 77 tokens', () => {
    const padded = cases.map(({ text }) => tokenizer.encodePadded(text));
    expect(padded.map(({ ids }) => [...ids])).toEqual(cases.map(({ ids77 }) => ids77));
    expect(padded.map(({ mask }) => [...mask])).toEqual(cases.map(({ mask77 }) => mask77));
    expect(cases.some(({ ids }) => ids.length > 77)).toBe(true);
    padded.forEach(({ removed }, i) => expect(removed !== '').toBe(cases[i]!.ids.length > 77));
  });

  it('knows its vocabulary and its file', async () => {
    expect(tokenizer.vocabSize).toBe(2000);
    expect(tokenizer.encode('<extra_id_0><extra_id_99>')).toEqual([1999, 1900, 1]);
    expect(tokenizer.fingerprint).toBe(createHash('sha256').update(await readFile(path.join(dir, file))).digest('hex'));
  });

  it('splits the text at special pieces, each part with its own prefix', () => {
    const parts = ['red apple', 'blue car'].map((text) => tokenizer.encode(text).slice(0, -1));
    expect(tokenizer.encode('red apple</s>blue car<pad>')).toEqual([...parts[0]!, 1, ...parts[1]!, 0, 1]);
    expect(tokenizer.encode('<unk>')).toEqual([2, 1]);
    expect(tokenizer.encode('<extra_id_100>').length).toBeGreaterThan(2); // is text
    expect(tokenizer.encode('<extra_id_05>').length).toBeGreaterThan(2);
  });

  it('says what truncation removed, unknown characters and special pieces included', () => {
    expect(tokenizer.encode('apple ')).toHaveLength(2); // one piece per word
    const fits = 'apple '.repeat(76);
    expect(tokenizer.encodePadded(fits).removed).toBe('');
    expect(tokenizer.encodePadded(`${fits}car`).removed).toBe('car');
    expect(tokenizer.encodePadded(`${fits}CAR 漢字 <extra_id_3> car`).removed).toBe('CAR 漢字<extra_id_3> car');
    expect(tokenizer.encodePadded('apple apple apple', 3)).toEqual({
      ids: Int32Array.of(...tokenizer.encode('apple apple')), mask: Int32Array.of(1, 1, 1), removed: 'apple',
    });
    expect(tokenizer.encodePadded('apple', 1)).toEqual({ ids: Int32Array.of(1), mask: Int32Array.of(1), removed: 'apple' });
  });

  it.each([0, -1, 1.5, NaN, Infinity])('refuses maxLength %s', (maxLength) => {
    expect(() => tokenizer.encodePadded('apple', maxLength)).toThrow(expect.objectContaining({
      code: 'INVALID_ARGUMENT', message: expect.stringMatching(/maxLength.*got/),
    }));
  });

  it('encodes a long text in linear time', () => {
    const start = performance.now();
    expect(tokenizer.encode('a red apple, '.repeat(20_000)).length).toBeGreaterThan(60_000);
    expect(tokenizer.encode('漢'.repeat(300_000))).toHaveLength(3); // space, unknown, end
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

describe('T5Tokenizer.load', () => {
  it('names both files when there is neither', async () => {
    for (const dir of [scratch, path.join(scratch, 'missing'), path.join(spieceDir, 'spiece.model')]) {
      await expect(T5Tokenizer.load(dir)).rejects.toMatchObject({
        name: 'IFError', code: 'NOT_FOUND', message: expect.stringMatching(/spiece\.model.*tokenizer\.json/),
      });
    }
  });

  it('prefers spiece.model, and does not fall back when it is damaged', async () => {
    await copyFile(path.join(jsonDir, 'tokenizer.json'), path.join(scratch, 'tokenizer.json'));
    const fromJson = (await T5Tokenizer.load(scratch)).fingerprint;
    await copyFile(path.join(spieceDir, 'spiece.model'), path.join(scratch, 'spiece.model'));
    expect((await T5Tokenizer.load(scratch)).fingerprint).not.toBe(fromJson);
    await writeFile(path.join(scratch, 'spiece.model'), 'version https://git-lfs.github.com/spec/v1\n');
    await expect(T5Tokenizer.load(scratch)).rejects.toMatchObject({ code: 'FILE_FORMAT', message: expect.stringContaining('spiece.model') });
  });

  it('takes the number of extra ids from tokenizer_config.json', async () => {
    const dir = await mkdtemp(path.join(scratch, 'config-'));
    await copyFile(path.join(spieceDir, 'spiece.model'), path.join(dir, 'spiece.model'));
    expect((await T5Tokenizer.load(dir)).vocabSize).toBe(2000);
    const config = path.join(dir, 'tokenizer_config.json');
    await writeFile(config, '{"extra_ids": 2}');
    const tokenizer = await T5Tokenizer.load(dir);
    expect(tokenizer.vocabSize).toBe(1902);
    expect(tokenizer.encode('<extra_id_0><extra_id_1>')).toEqual([1901, 1900, 1]);
    for (const text of ['{"extra_ids": -1}', '{"extra_ids": "100"}', '[]', '{']) {
      await writeFile(config, text);
      await expect(T5Tokenizer.load(dir)).rejects.toMatchObject({ code: 'FILE_FORMAT', message: expect.stringContaining('tokenizer_config.json') });
    }
  });
});
