import { readFileSync } from 'node:fs';
import os from 'node:os';
import { addon, type Precision, type SampleDType, type T5DType } from '../addon.js';
import { IFError } from '../errors.js';
import type { T5Config } from '../models/config.js';
import { t5Arithmetic, T5Encoder } from '../models/t5-encoder.js';
import { PROMPT_TOKENS } from '../text/prompt-embeddings.js';
import type { Stage } from './stage.js';

/** One component is resident at a time: the peak of a cascade is its largest entry. */
export type CascadePlan = { component: string; weightBytes: number; activationBytes: number }[];

// Node and the addon (80 MB), and while loading the copies of tensors that are kept for reuse (T5-XXL: 190 MB), page tables.
export const OVERHEAD_BYTES = 300e6;
// Free places between tensors of the first-fit arena (6 % of the activations in IF-II-L, 11 % in IF-I-XL), and the packed keys
// and values of one attention layer (2 % and 6 %), which the meta backend does not see.
export const ACTIVATION_MARGIN = 1.2;

/** What every component needs, from the meta backend; nothing is loaded. */
export async function planCascade(
  t5: T5Config,
  stages: { stage: Stage; batch: number; height: number; width: number; guided: boolean }[],
  dtype: SampleDType,
  t5Dtype: T5DType,
  precision: Precision,
  device: string,
): Promise<CascadePlan> {
  const arithmetic = t5Arithmetic(t5Dtype, dtype);
  const encoder = await T5Encoder.plan(t5, arithmetic.dtype, arithmetic.int8Weights, 2, PROMPT_TOKENS, device);
  const plan: CascadePlan = [{ component: 'text_encoder', weightBytes: encoder.weightBytes, activationBytes: encoder.activationBytes }];
  for (const [i, { stage, batch, height, width, guided }] of stages.entries()) {
    const { weightBytes, activationBytes } = await stage.plan(dtype, batch, height, width, PROMPT_TOKENS, guided, precision, device);
    plan.push({ component: `stage${i + 1}`, weightBytes, activationBytes });
  }
  return plan;
}

/**
 * @param available bytes that may be taken
 * @throws IFError `OUT_OF_MEMORY` when a component needs more than that
 */
export function checkPlan(plan: CascadePlan, dtype: SampleDType, t5Dtype: T5DType, available = availableMemory()): void {
  for (const { component, weightBytes, activationBytes } of plan) {
    const needed = weightBytes + ACTIVATION_MARGIN * activationBytes + OVERHEAD_BYTES;
    if (!(needed <= available)) {
      const [type, remedy] = component === 'text_encoder' ? [t5Dtype, TEXT_REMEDY[t5Dtype]] : [dtype, `use ${dtype === 'f32' ? '--dtype bf16, ' : ''}fewer pictures or a smaller size`];
      throw new IFError('OUT_OF_MEMORY', `${component} needs ${gigabytes(needed)} (weights ${gigabytes(weightBytes)}, activations ${gigabytes(activationBytes)} in ${type}), ${gigabytes(available)} are available: ${remedy}`);
    }
  }
}

const TEXT_REMEDY: Record<T5DType, string> = { f32: 'use --t5-dtype bf16 or int8', bf16: 'use --t5-dtype int8', int8: 'free some memory' };

/** Bytes that this process can still take. On the CPU: MemAvailable on Linux, bounded by the cgroup's limit. */
export function availableMemory(device = 'cpu:0'): number {
  if (isCuda(device)) return addon.deviceMemory(device);
  let available = os.freemem();
  try {
    const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (match) available = Number(match[1]) * 1024;
  } catch {
    // not Linux: os.freemem is what there is
  }
  const limit = process.constrainedMemory();
  return limit > 0 && limit < os.totalmem() ? Math.min(available, limit - process.memoryUsage.rss()) : available;
}

/** Whether a canonical device name is one of a device with memory of its own. */
export function isCuda(device: string): boolean {
  return device.startsWith('cuda');
}

export function gigabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(0)} MB`;
}
