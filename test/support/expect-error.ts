import { expect } from 'vitest';
import { IFError, type ErrorCode } from '../../lib/errors.js';

/** Runs `action` and checks that it throws (or rejects with) an IFError of that code whose message has every part. */
export async function expectIFError(code: ErrorCode, action: () => unknown, ...parts: (string | RegExp)[]): Promise<void> {
  let caught: unknown;
  try {
    await action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(IFError);
  expect(caught).toMatchObject({ code });
  for (const part of parts) expect((caught as IFError).message).toMatch(part);
}
