// The recorded results are those that were recorded.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { golden } from './support/safetensors.js';

test('every file has the checksum of the manifest', () => {
  const { sha256 } = JSON.parse(readFileSync(golden('MANIFEST.json'), 'utf8')) as { sha256: Record<string, string> };
  const found = Object.fromEntries(Object.keys(sha256).map((name) => [name, createHash('sha256').update(readFileSync(golden(name))).digest('hex')]));
  expect(found).toEqual(sha256);
});
