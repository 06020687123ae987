import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { CommanderError } from 'commander';
import { IFError } from '../errors.js';

/** The version in package.json. */
export function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/**
 * Parses the arguments and runs a command. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. An error is
 * one line on stderr without a stack, unless it is a bug (not an IFError). Ctrl-C cancels; a second one ends at once.
 */
export async function runCli(program: Command, main: (signal: AbortSignal) => Promise<void> | void): Promise<void> {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0); // `if-sample … | head`
    throw error;
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error; // a reader of the progress that left must not cost the picture
  });
  try {
    program.exitOverride().parse();
    await main(controller.signal);
  } catch (error) {
    process.exitCode = report(program.name(), error);
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
}

function report(name: string, error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has printed it
  if (error instanceof IFError) {
    if (error.code === 'CANCELLED') {
      console.error(`${name}: interrupted`);
      return 130;
    }
    console.error(`${name}: ${error.message}`);
    return error.code === 'INVALID_ARGUMENT' ? 2 : 1;
  }
  console.error(`${name}: unexpected error, please report it:`, error);
  return 1;
}
