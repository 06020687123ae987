// The layers of the design: arrows point one way only.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

/** Folder → folders that its files may include or import, besides itself. */
const NATIVE: Record<string, string[]> = {
  core: [],
  cpu: ['core', 'ops'], // ops: the contract headers backend.h and types.h
  cuda: ['core', 'ops'],
  autograd: ['core', 'ops'], // ops: types.h, and backend.h to add gradients
  ops: ['core', 'cpu', 'cuda', 'autograd'],
  io: ['core', 'ops'],
  nn: ['core', 'ops', 'io', 'autograd'],
  optim: ['core', 'ops'],
  training: ['core', 'ops', 'io', 'autograd', 'nn', 'optim'],
  bench: ['core', 'cuda', 'ops', 'io', 'nn', 'training'],
  addon: ['core', 'cuda', 'ops', 'io', 'nn', 'training', 'bench'],
};
const LIB: Record<string, string[]> = {
  '.': ['models', 'diffusion', 'text', 'weights', 'pipelines', 'data', 'training'], // index.ts, and the shared files beside it
  models: ['.'],
  diffusion: ['.', 'models'],
  weights: ['.', 'models'],
  text: ['.', 'models'],
  pipelines: ['.', 'models', 'diffusion', 'text', 'weights'],
  data: ['.', 'models'],
  training: ['.', 'models', 'diffusion', 'text', 'weights', 'pipelines', 'data'],
  cli: ['.', 'pipelines', 'training', 'weights'],
};
/** Files beside index.ts that every layer may use know no layer themselves, but for a model type. */
const SHARED_MAY_IMPORT: Record<string, string[]> = { 'index.ts': Object.keys(LIB) };

function violations(base: string, rules: Record<string, string[]>, pattern: RegExp, resolve: (file: string, target: string) => string | undefined): string[] {
  const found: string[] = [];
  const files = readdirSync(path.join(root, base), { recursive: true, encoding: 'utf8' }).filter((file) => /\.(ts|h|cpp|cu|cuh)$/.test(file));
  expect(files.length).toBeGreaterThan(20);
  for (const file of files) {
    const folder = file.includes(path.sep) ? file.split(path.sep)[0]! : '.';
    const allowed = folder === '.' ? SHARED_MAY_IMPORT[file] ?? [] : rules[folder];
    if (!allowed) {
      found.push(`${base}/${file}: the folder ${folder} has no rule`);
      continue;
    }
    for (const [, target] of readFileSync(path.join(root, base, file), 'utf8').matchAll(pattern)) {
      const to = resolve(file, target!);
      if (to !== undefined && to !== folder && !allowed.includes(to)) found.push(`${base}/${file}: imports ${target} (${to})`);
    }
  }
  return found;
}

const includeTarget = (_file: string, target: string): string | undefined => (target.includes('/') ? target.split('/')[0] : undefined);
const importTarget = (file: string, target: string): string | undefined => {
  if (!target.startsWith('.')) return undefined;
  const resolved = path.normalize(path.join(path.dirname(file), target));
  return resolved.includes(path.sep) ? resolved.split(path.sep)[0] : '.';
};
const INCLUDE = /^#include "([^"]+)"/gm;
const IMPORT = /(?:from|import)\s+'([^']+)'/g;

test('native includes follow the layers', () => {
  expect(violations('native', NATIVE, INCLUDE, includeTarget)).toEqual([]);
});

test('lib imports follow the layers', () => {
  expect(violations('lib', LIB, IMPORT, importTarget)).toEqual([]);
});

test('a violation is found', () => {
  expect(violations('lib', { ...LIB, pipelines: ['.'] }, IMPORT, importTarget).length).toBeGreaterThan(0);
});
