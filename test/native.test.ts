// Runs the native test executable (built by `npm test`): every op on every instruction set against the scalar reference,
// models against golden data, files.
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { addon } from '../lib/addon.js';

const executable = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'build', 'cmake', 'if_tests');

function runTests(filters: string[], isa?: string): void {
  let output: string;
  try {
    output = execFileSync(executable, filters, { encoding: 'utf8', maxBuffer: 1 << 28, env: isa ? { ...process.env, IF_CPU_ISA: isa } : process.env });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`if_tests failed:\n${(stdout ?? '').slice(-8000)}\n${stderr ?? ''}`);
  }
  const summary = output.trim().split('\n').at(-1)!;
  console.log(`native${isa ? ` ${isa}` : ''}: ${summary}`);
  expect(summary).toMatch(/, 0 failed,/);
}

test('native tests', { timeout: 600_000 }, () => runTests([]));

// The first run has taken the best one.
const { isa: best, supported } = addon.cpuInfo();
const others = supported.filter((isa) => isa !== best);
test.each(others)('golden results, gradients and training steps on %s', { timeout: 600_000 }, (isa) => {
  // the oracle is slow: one form of the convolutions is enough, for it has one
  runTests(isa === 'reference' ? ['f32 exact', 't5_tiny', 'AdamW exact'] : ['unet_', 't5_tiny', 'golden AdamW', 'trainer two replicas'], isa);
});
