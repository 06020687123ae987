import { addon } from './addon.js';
import { IFError } from './errors.js';

/**
 * Checks a device name (`cpu`, `cpu:1`, `cuda`, `cuda:0`) against this build and machine.
 * @returns the canonical name, e.g. `cpu:0`
 * @throws IFError `INVALID_ARGUMENT` for another name, `NOT_BUILT` when the device cannot be used here
 */
export function resolveDevice(name: string): string {
  const match = /^(cpu|cuda)(?::(\d{1,3}))?$/.exec(name);
  if (!match) throw new IFError('INVALID_ARGUMENT', `device: expected cpu, cpu:N, cuda or cuda:N, got "${name}"`);
  const device = `${match[1]}:${match[2] ?? 0}`;
  addon.checkDevice(device);
  return device;
}

/** Sets the number of threads of a device; 0 = the cores that this process may use. */
export function setThreads(device: string, threads: number): void {
  addon.setThreads(resolveDevice(device), threads);
}
