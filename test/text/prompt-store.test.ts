import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseT5Config, readJson } from '../../lib/models/config.js';
import { encodePrompts, PROMPT_TOKENS, type TextEncoderFiles } from '../../lib/text/prompt-embeddings.js';
import { PromptStore, type PromptStoreOptions } from '../../lib/text/prompt-store.js';
import { T5Tokenizer } from '../../lib/text/t5-tokenizer.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

let dir: string;
let encoder: TextEncoderFiles;
let loads: number;
let warnings: string[];
const options = (more: Partial<PromptStoreOptions> = {}): PromptStoreOptions => ({
  dtype: 'f32', device: 'cpu:0', cacheDir: dir, onProgress: (done, total) => { if (done === total) loads++; }, onWarning: (message) => warnings.push(message), ...more,
});
async function* each(...captions: string[]): AsyncIterable<string> {
  yield* captions;
}

beforeEach(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'if-store-'));
  const config = golden('tiny-if-I', 'text_encoder', 'config.json');
  encoder = {
    config: parseT5Config(await readJson(config), config), files: [golden('tiny-if-I', 'text_encoder', 'model.safetensors')],
    tokenizer: await T5Tokenizer.load(golden('tiny-if-I', 'tokenizer')),
  };
  loads = 0;
  warnings = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('gives what encodePrompts gives, the empty caption included, and encodes each caption once', async () => {
  const encoded: string[] = [];
  const onEncoded = (done: number, total: number): void => { encoded.push(`${done}/${total}`); };
  const store = await PromptStore.open(each('a red apple', 'a lemon', 'a red apple'), encoder, options({ onEncoded }));
  expect(encoded).toEqual(['1/3', '2/3', '3/3']);
  const [apple, lemon, empty] = await encodePrompts(['a red apple', 'a lemon', ''], encoder, options({ cacheDir: null }));
  expect(await store.embedding('a red apple')).toEqual(apple);
  expect(await store.embedding('a lemon')).toEqual(lemon);
  expect(await store.embedding('')).toEqual(empty);
  expect(readdirSync(dir).length).toBe(3);
  loads = 0;
  const again = await PromptStore.open(each('a lemon', 'a red apple'), encoder, options({ onEncoded }));
  expect([loads, encoded.length]).toEqual([0, 3]);
  expect(await again.embedding('a lemon')).toEqual(lemon);
  await expectIFError('NOT_FOUND', () => store.embedding('a pear'), /"a pear"/);
});

test('more captions than fit in memory are read from the cache', async () => {
  const bytes = PROMPT_TOKENS * encoder.config.dModel * 4;
  const few = { memoryBytes: 2 * bytes };
  const captions = ['one', 'two', 'three', 'four'];
  const store = await PromptStore.open(each(...captions), encoder, options(few));
  const expected = await encodePrompts(captions, encoder, options({ cacheDir: null }));
  for (const round of [0, 1]) for (const [i, caption] of captions.entries()) expect(await store.embedding(caption), `${round} ${caption}`).toEqual(expected[i]);
  loads = 0;
  await PromptStore.open(each(...captions), encoder, options(few));
  expect(loads).toBe(0);
  for (const file of readdirSync(dir)) rmSync(path.join(dir, file));
  await expectIFError('NOT_FOUND', () => store.embedding('one'), /removed or damaged/);
  await expectIFError('OUT_OF_MEMORY', () => PromptStore.open(each(...captions), encoder, options({ ...few, cacheDir: null })), /5 captions .* 2 fit in memory/);
  await expectIFError('OUT_OF_MEMORY', () => PromptStore.open(each(...captions), encoder, options({ ...few, cacheDir: path.join(golden('README.md'), 'cache') })), /no cache folder/);
});

test('captions that lose something: three are named, the others counted', async () => {
  const long = ['a', 'b', 'c', 'd', 'e'].map((word) => `${word} ${'apple '.repeat(200)}`);
  await PromptStore.open(each(...long), encoder, options());
  expect(warnings.length).toBe(4);
  expect(warnings[0]).toMatch(/longer than 77 tokens/);
  expect(warnings[3]).toMatch(/^2 more captions/);
});
