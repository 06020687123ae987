import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { TrainerState } from '../addon.js';
import { IFError } from '../errors.js';
import { ioError, writeFileAtomic } from '../files.js';
import { isJsonObject, parseJson } from '../models/json.js';
import type { PipelineTexts } from './export.js';
import type { RunConfig } from './run-config.js';

/** All that a run needs to go on, beside the tensors: everything that is drawn depends on seed and sample index only. */
export interface RunState {
  /** Optimizer steps done. */
  step: number;
  config: RunConfig;
  /** What was trained on. */
  data: { description: string; length: number; /** Pictures of the class. */ prior?: number; /** See VisitOrder.perShape. */ buckets?: Readonly<Record<string, number>> };
  /** The small files of the pipeline that becomes of it. */
  pipeline: PipelineTexts;
}

export interface Checkpoint {
  dir: string;
  state: RunState;
}

const FORMAT = 1;
const STATE_FILE = 'state.json';
const NAME = /^step-(\d{6,})$/;
/** Prefix of folders that are being written or removed. */
const UNFINISHED = '.unfinished-';

const folderName = (step: number): string => `step-${String(step).padStart(6, '0')}`;

/** The file of one part of the state in a checkpoint. */
export function partFile(dir: string, part: TrainerState): string {
  return path.join(dir, `${part}.safetensors`);
}

/** The folder of checkpoints of a run: each is written beside the others and appears under its name when it is whole. */
export class Checkpoints {
  /** @param root the folder; made when the first checkpoint is written */
  constructor(readonly root: string, private readonly keep: number) {}

  /** Removes, and names, what a killed process left. @throws IFError `IO` */
  async removeUnfinished(onWarning: (message: string) => void): Promise<void> {
    for (const name of (await this.names()).filter((entry) => entry.startsWith(UNFINISHED))) {
      onWarning(`${path.join(this.root, name)} is a checkpoint whose writing was interrupted: ignored and removed`);
      await rm(path.join(this.root, name), { recursive: true, force: true });
    }
  }

  /**
   * The newest whole checkpoint. Those that are not whole are named and passed over.
   * @throws IFError `IO`; `FILE_FORMAT` when the newest was written by another version
   */
  async latest(onWarning: (message: string) => void): Promise<Checkpoint | undefined> {
    for (const step of steps(await this.names()).reverse()) {
      const dir = path.join(this.root, folderName(step));
      const state = await readState(dir);
      if (typeof state !== 'string') return { dir, state };
      onWarning(`${dir} is not a whole checkpoint (${state}): ignored`);
    }
    return undefined;
  }

  /** Whether there is any checkpoint, whole or not. */
  async any(): Promise<boolean> {
    return steps(await this.names()).length > 0;
  }

  /**
   * Writes a checkpoint and removes the oldest beyond those to keep. A crash at any moment leaves the older ones whole.
   * @param parts what of the trainer is written
   * @param write writes one part to a file
   * @returns its folder
   * @throws IFError `IO` when it cannot be written: what was written is removed, and the older checkpoints are untouched
   */
  async save(state: RunState, parts: readonly TrainerState[], write: (part: TrainerState, file: string) => Promise<void>): Promise<string> {
    const dir = path.join(this.root, folderName(state.step));
    const temporary = path.join(this.root, `${UNFINISHED}${folderName(state.step)}-${process.pid}`);
    try {
      await mkdir(temporary, { recursive: true });
      const files: Record<string, number> = {};
      for (const part of parts) {
        const file = partFile(temporary, part);
        await write(part, file);
        files[path.basename(file)] = (await stat(file)).size;
      }
      await writeFileAtomic(path.join(temporary, STATE_FILE), `${JSON.stringify({ format: FORMAT, ...state, files }, null, 1)}\n`);
      await syncFolder(temporary);
      await this.remove(state.step); // one that was not whole
      await rename(temporary, dir);
      await syncFolder(this.root);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      throw await this.notWritten(state.step, error);
    }
    for (const step of steps(await this.names()).slice(0, -this.keep)) await this.remove(step);
    return dir;
  }

  private async notWritten(step: number, error: unknown): Promise<unknown> {
    const reason = ioError('writing', this.root, error);
    if (!(reason instanceof IFError)) return reason;
    const newest = steps(await this.names().catch(() => [])).at(-1);
    const rest = newest === undefined ? 'there is no older one' : `the checkpoint of step ${newest} is intact; continue from it with --resume`;
    return new IFError(reason.code, `the checkpoint of step ${step} was not written: ${reason.message}; ${rest}`, { cause: error });
  }

  /** Takes the name away first, so that a half-removed folder is never taken for a checkpoint. */
  private async remove(step: number): Promise<void> {
    const unfinished = path.join(this.root, `${UNFINISHED}${folderName(step)}-old`);
    await rm(unfinished, { recursive: true, force: true });
    try {
      await rename(path.join(this.root, folderName(step)), unfinished);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw ioError('removing', path.join(this.root, folderName(step)), error);
    }
    await rm(unfinished, { recursive: true, force: true });
  }

  private async names(): Promise<string[]> {
    try {
      return await readdir(this.root);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw ioError('reading', this.root, error);
    }
  }
}

/**
 * Opens one checkpoint.
 * @param dir its folder
 * @throws IFError `FILE_FORMAT` when it is not whole, or was written by another version
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const state = await readState(dir);
  if (typeof state === 'string') throw new IFError('FILE_FORMAT', `${dir} is not a whole checkpoint: ${state}`);
  return { dir, state };
}

/** Steps of the checkpoints among the names, ascending. */
function steps(names: readonly string[]): number[] {
  return names.flatMap((name) => NAME.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b);
}

/** The state of a whole checkpoint, or why it is not whole. */
async function readState(dir: string): Promise<RunState | string> {
  const file = path.join(dir, STATE_FILE);
  let json: unknown;
  try {
    json = parseJson(await readFile(file, 'utf8'), STATE_FILE);
  } catch (error) {
    return error instanceof IFError ? error.message : `${STATE_FILE} cannot be read`;
  }
  if (!isJsonObject(json) || !isJsonObject(json['files']) || !isJsonObject(json['config']) || !isJsonObject(json['data']) || typeof json['step'] !== 'number') return `${STATE_FILE} has not the content of a state`;
  if (json['format'] !== FORMAT) throw new IFError('FILE_FORMAT', `${file}: format ${String(json['format'])}, this version reads ${FORMAT}: continue the run with the version that wrote it`);
  for (const [name, size] of Object.entries(json['files'])) {
    const found = await stat(path.join(dir, name)).catch(() => undefined);
    if (!found) return `${name} is missing`;
    if (found.size !== size) return `${name} has ${found.size} bytes instead of ${String(size)}`;
  }
  const { step, config, data, pipeline } = json as unknown as RunState;
  return { step, config, data, pipeline: pipeline ?? {} }; // {}: from before they were kept
}

/** Makes a new or renamed entry of a folder survive a power failure, where the system can open folders. */
async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r').catch(() => undefined);
  try {
    await handle?.sync();
  } finally {
    await handle?.close();
  }
}
