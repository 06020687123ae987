import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { IFError } from '../../lib/errors.js';
import { parseDDPMConfig, parseModelIndex, parseT5Config, parseUNetConfig } from '../../lib/models/config.js';
import { parseJson } from '../../lib/models/json.js';
import { golden } from '../support/safetensors.js';
import { TorchRng } from '../support/torch-rng.js';

const PARSERS: [string, (json: unknown, where: string) => unknown, string[]][] = [
  ['unet', parseUNetConfig, ['tiny-if-II', 'unet', 'config.json']],
  ['t5', parseT5Config, ['tiny-if-I', 'text_encoder', 'config.json']],
  ['scheduler', parseDDPMConfig, ['tiny-if-I', 'scheduler', 'scheduler_config.json']],
  ['model_index', parseModelIndex, ['tiny-if-II', 'model_index.json']],
];

/** Uniform whole numbers below n, from a fixed seed. */
function below(seed: number): (n: number) => number {
  const rng = new TorchRng(seed);
  return (n) => rng.integer() % n;
}

let deep: unknown = 1;
for (let i = 0; i < 20000; i++) deep = [deep];
const STRANGE: unknown[] = [null, true, false, 0, -0, -1, 1.5, 1e9, 1e308, -1e308, 2 ** 53, '', 'x', '__proto__', '\ud800', 'a'.repeat(1e5),
  [], {}, [null], [[]], [0, 0, 0], ['gelu'], new Array(1e4).fill(1), { a: { b: [] } }, deep, JSON.parse('{"__proto__": {"in_channels": 3}}')];
const TEXTS = ['silu', 'timestep', 'ResnetDownsampleBlock2D', 'learned', 'linear', 'constructor', 'toString'];

/** `value` with up to three places changed: replaced, removed, renamed, scaled. */
function mutate(value: unknown, pick: (n: number) => number): unknown {
  const copy = structuredClone(value) as Record<string, unknown>;
  for (let n = 1 + pick(3); n > 0; n--) {
    let target: Record<string, unknown> = copy;
    let keys = Object.keys(target);
    let key = keys[pick(keys.length)] ?? 'x';
    if (Array.isArray(target[key]) && pick(2)) {
      target = target[key] as Record<string, unknown>;
      keys = Object.keys(target);
      key = keys[pick(Math.max(keys.length, 1))] ?? '0';
    }
    const old = target[key];
    const choice = pick(6);
    if (choice === 0) delete target[key];
    else if (choice === 1) target[`${key}_`] = old;
    else if (choice === 2 && typeof old === 'number') target[key] = old * [0, -1, 2, 0.5, 1000][pick(5)]!;
    else if (choice === 3) target[key] = TEXTS[pick(TEXTS.length)];
    else if (choice === 4) target[key] = copy[Object.keys(copy)[pick(Object.keys(copy).length)]!];
    else target[key] = STRANGE[pick(STRANGE.length)];
  }
  return copy;
}

test.each(PARSERS)('mutated values of %s give a result or an IFError', (_, parse, file) => {
  const good = JSON.parse(readFileSync(golden(...file), 'utf8')) as unknown;
  const pick = below(7);
  let refused = 0;
  const rounds = 4000;
  for (let i = 0; i < rounds; i++) {
    try {
      parse(mutate(good, pick), 'fuzz');
    } catch (error) {
      if (!(error instanceof IFError)) throw error;
      expect(error.message.length).toBeLessThan(2000);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(0);
  expect(refused).toBeLessThan(rounds);
});

test('damaged JSON text gives a place', () => {
  const text = readFileSync(golden('tiny-if-I', 'unet', 'config.json'), 'utf8');
  const pick = below(8);
  let refused = 0;
  for (let i = 0; i < 1000; i++) {
    const at = pick(text.length);
    const junk = ['', '"', '{', ']', ',', ':', '0', '\\', '\n', 'NaN', '\u0000'][pick(11)]!;
    try {
      parseJson(text.slice(0, at) + junk + text.slice(at + pick(3)), 'fuzz');
    } catch (error) {
      if (!(error instanceof IFError)) throw error;
      expect(error.message).toMatch(/line \d+, column \d+: unexpected/);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(100);
});
