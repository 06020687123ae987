import { open, readFile, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { ioError, writeFileAtomic } from '../files.js';
import { TensorBoardWriter } from './tensorboard.js';

/** Numbers of one step. */
export type Metrics = Readonly<Record<string, number>>;

const FILE = 'metrics.jsonl';

/** Metrics of a run: one JSON object per line in `metrics.jsonl`, and the same numbers as TensorBoard scalars. */
export class MetricsLog {
  private constructor(private readonly file: string, private readonly handle: FileHandle, private readonly tensorBoard: TensorBoardWriter) {}

  /**
   * Opens the files of a run. Lines of steps after `step` (of a run that was interrupted after its last checkpoint) and
   * broken lines are removed.
   * @param step the last step that is done
   * @throws IFError `IO`
   */
  static async open(dir: string, step: number): Promise<MetricsLog> {
    const file = path.join(dir, FILE);
    try {
      const lines = (await readFile(file, 'utf8').catch(() => '')).split('\n').filter((line) => stepOf(line) <= step);
      await writeFileAtomic(file, lines.map((line) => `${line}\n`).join(''));
      return new MetricsLog(file, await open(file, 'a'), await TensorBoardWriter.create(dir, step));
    } catch (error) {
      throw ioError('writing', file, error);
    }
  }

  /**
   * Adds the numbers of a step.
   * @param group of the scalars in TensorBoard, e.g. `train`
   * @throws IFError `IO`
   */
  async write(step: number, group: string, metrics: Metrics): Promise<void> {
    try {
      await this.handle.appendFile(`${JSON.stringify({ step, group, ...metrics })}\n`);
    } catch (error) {
      throw ioError('writing', this.file, error);
    }
    await this.tensorBoard.write({ type: 'scalars', step, scalars: Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`${group}/${name}`, value])) });
  }

  async close(): Promise<void> {
    await this.handle.close();
    await this.tensorBoard.close();
  }
}

/** The step of a line, Infinity when it is no whole line. */
function stepOf(line: string): number {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return typeof step === 'number' ? step : Infinity;
  } catch {
    return Infinity;
  }
}
