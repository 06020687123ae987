// Runs the native test executable (built by `npm test`): every op on every instruction set against the scalar reference,
// models against golden data, files.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { addon } from '../lib/addon.js';

const executable = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'build', 'cmake', 'if_tests');

async function runTests(filters: string[], isa?: string): Promise<void> {
  let output: string;
  try {
    output = (await promisify(execFile)(executable, filters, { maxBuffer: 1 << 28, env: isa ? { ...process.env, IF_CPU_ISA: isa } : process.env })).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`if_tests failed:\n${(stdout ?? '').slice(-8000)}\n${stderr ?? ''}`);
  }
  const summary = output.trim().split('\n').at(-1)!;
  console.log(`native ${isa ?? filters[0]}: ${summary}`);
  expect(summary).toMatch(/, 0 failed,/);
}

test.concurrent.each(['1/2', '2/2'])('native tests, part %s', { timeout: 900_000 }, (part) => runTests([`--part=${part}`]));

// The first runs have taken the best one.
const { isa: best, supported } = addon.cpuInfo();
const others = supported.filter((isa) => isa !== best);
test.each(others)('golden results, gradients and training steps on %s', { timeout: 600_000 }, (isa) => {
  // the oracle is slow: one form of the convolutions is enough, for it has one
  runTests(isa === 'reference' ? ['f32 exact', 't5_tiny', 'AdamW exact'] : ['unet_', 't5_tiny', 'golden AdamW', 'trainer two replicas'], isa);
});
