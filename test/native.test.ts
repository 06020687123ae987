// Runs the native test executable (built by `npm test`): every op on every instruction set against the scalar reference,
// models against golden data, files.
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const executable = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'build', 'cmake', 'if_tests');

test('native tests', { timeout: 600_000 }, () => {
  let output: string;
  try {
    output = execFileSync(executable, { encoding: 'utf8', maxBuffer: 1 << 28 });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`if_tests failed:\n${(stdout ?? '').slice(-8000)}\n${stderr ?? ''}`);
  }
  const summary = output.trim().split('\n').at(-1)!;
  console.log(`native: ${summary}`);
  expect(summary).toMatch(/, 0 failed,/);
});
