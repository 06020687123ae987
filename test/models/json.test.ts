import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { describeJson, parseJson, readJson } from '../../lib/models/json.js';
import { expectIFError } from '../support/expect-error.js';

const dir = mkdtempSync(path.join(tmpdir(), 'if-json-'));
afterAll(() => rmSync(dir, { recursive: true }));

test.each([
  ['{"a": 1,}', 1, 9, '}'],
  ['{"a": 1\n "b": 2}', 2, 2, 'b'],
  ['{"a": NaN}', 1, 7, 'NaN'],
  ['[1, 2', 1, 6, 'the end of the file'],
  ['', 1, 1, 'the end of the file'],
  ['{"a": "x\ny"}', 1, 7, 'x'],
  ['{a: 1}', 1, 2, 'a'],
  ['[01]', 1, 2, '01'],
  ['[1] x', 1, 5, 'x'],
  ['[1}', 1, 3, '}'],
  ['{"a" 1}', 1, 6, '1'],
  ['[,]', 1, 2, ','],
  ['{"a":}', 1, 6, '}'],
])('place of the mistake in %j', (text, line, column, found) =>
  expectIFError('FILE_FORMAT', () => parseJson(text, 'f.json'), `f.json: not valid JSON at line ${line}, column ${column}: unexpected`, found));

test('a very deep broken file does not overflow', () =>
  expectIFError('FILE_FORMAT', () => parseJson('['.repeat(100000), 'f'), 'column 100001'));

test('readJson', async () => {
  const file = path.join(dir, 'x.json');
  writeFileSync(file, '{"a": [1, "é"]}');
  expect(await readJson(file)).toEqual({ a: [1, 'é'] });
  await expectIFError('NOT_FOUND', () => readJson(path.join(dir, 'none.json')), 'none.json');
  await expectIFError('IO', () => readJson(dir), 'EISDIR');
});

test('describeJson stays short', () => {
  expect(describeJson([1, 'a', null, [2], {}])).toBe('[1, "a", null, …, …]');
  expect(describeJson('y'.repeat(1000)).length).toBeLessThan(70);
  expect(describeJson({ a: 1 })).toBe('an object');
});
