import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { IFError } from '../lib/errors.js';
import { ioError, writeFileAtomic } from '../lib/files.js';
import { nearestName } from '../lib/suggest.js';
import { expectIFError } from './support/expect-error.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-files-')); });
afterEach(() => rmSync(dir, { recursive: true }));
const at = (name: string) => path.join(dir, name);

test('writes bytes, text and chunks', async () => {
  await writeFileAtomic(at('a'), new Uint8Array([1, 2, 255]));
  expect([...readFileSync(at('a'))]).toEqual([1, 2, 255]);
  await writeFileAtomic(at('a'), 'é');
  expect(readFileSync(at('a'), 'utf8')).toBe('é');
  await writeFileAtomic(at('a'), (function* () { yield Buffer.from('x'); yield Buffer.from('yz'); })());
  expect(readFileSync(at('a'), 'utf8')).toBe('xyz');
  await writeFileAtomic(at('a'), (async function* () { yield Buffer.from('1'); yield Buffer.from('2'); })());
  expect(readFileSync(at('a'), 'utf8')).toBe('12');
  expect(readdirSync(dir)).toEqual(['a']);
});

test('a source that throws leaves the old file, and its error comes out', async () => {
  writeFileSync(at('a'), 'old');
  const failing = (function* () { yield Buffer.from('new'); throw new IFError('CANCELLED', 'stop'); })();
  await expectIFError('CANCELLED', () => writeFileAtomic(at('a'), failing), 'stop');
  expect(readFileSync(at('a'), 'utf8')).toBe('old');
  expect(readdirSync(dir)).toEqual(['a']);
});

test.each([
  ['ENOSPC', /^writing f: no space .*\(ENOSPC\)$/],
  ['EACCES', /^writing f: permission denied.*\(EACCES\)$/],
  ['EXDEV', /^writing f: as the system says \(EXDEV\)$/],
])('ioError names file, errno and remedy: %s', (code, message) => {
  const system = Object.assign(new Error('as the system says'), { code, errno: -1 });
  expect(ioError('writing', 'f', system)).toMatchObject({ code: 'IO', message: expect.stringMatching(message), cause: system });
});

test('ioError passes on what the system did not say', () => {
  const other = new TypeError('x');
  expect(ioError('writing', 'f', other)).toBe(other);
});

test('nearestName', () => {
  expect(nearestName('smart5', ['fast27', 'smart50', 'super27'])).toBe('smart50');
  expect(nearestName('SMART50', ['smart50'])).toBe('smart50');
  expect(nearestName('zebra', ['smart50'])).toBeUndefined();
  expect(nearestName('x'.repeat(1e6), ['x'])).toBeUndefined();
});
