import { expect, test } from 'vitest';
import { maxAbsoluteError } from './compare.js';
import { floats, golden, readSafetensors } from './safetensors.js';
import { TorchRng } from './torch-rng.js';

const recorded = readSafetensors(golden('rng', 'torch_cpu.safetensors'));

test.each([0, 1, 42, 123456789, 2 ** 40 + 7])('randn of the test helper is torch.randn, seed %i', (seed) => {
  const rng = new TorchRng(seed);
  [1, 7, 15, 16, 17, 31, 100, 12288].forEach((n, call) => {
    expect(maxAbsoluteError(rng.randn(n), floats(recorded, `seed${seed}.call${call}.randn${n}`))).toBeLessThanOrEqual(2e-6);
  });
});
