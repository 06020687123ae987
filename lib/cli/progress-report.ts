import type { ProgressEvent } from '../pipelines/progress.js';
import { gigabytes } from '../pipelines/memory-plan.js';
import { bar, duration, Terminal } from './terminal.js';

/** Progress of a run: a bar per component on a terminal, plain lines when piped. */
export class ProgressReport {
  private readonly terminal: Terminal;
  private stageSeconds = 0;
  private announced = '';

  constructor(out: NodeJS.WriteStream, private readonly verbose: boolean) {
    this.terminal = new Terminal(out);
  }

  readonly onProgress = (event: ProgressEvent): void => {
    switch (event.type) {
      case 'warning': return this.terminal.print(`warning: ${event.message}`);
      case 'plan': return this.verbose ? this.terminal.print(`plan: ${event.component}: weights ${gigabytes(event.weightBytes)}, activations ${gigabytes(event.activationBytes)}`) : undefined;
      case 'load': return this.bytes(event.component, 'loading', event.done, event.total);
      case 'step': return this.step(event);
    }
  };

  /** Leaves the cursor on a fresh line. */
  end(): void {
    this.terminal.end();
  }

  /** Bytes done of a file or component: a bar, or one line when piped. */
  bytes(label: string, verb: string, done: number, total: number): void {
    const fraction = total > 0 ? done / total : 1;
    if (this.terminal.live) return this.terminal.update(`${label.padEnd(12)} ${bar(fraction)} ${gigabytes(done)} of ${gigabytes(total)}`, fraction >= 1);
    const line = `${label}: ${verb} ${gigabytes(total)}`;
    if (this.announced !== line) this.terminal.print(line);
    this.announced = line;
  }

  private step(event: Extract<ProgressEvent, { type: 'step' }>): void {
    const { stage, step, steps, seconds, flops, timestep } = event;
    this.stageSeconds = (step === 1 ? 0 : this.stageSeconds) + seconds;
    const perStep = this.stageSeconds / step;
    const rate = perStep >= 1 ? `${perStep.toFixed(2)} s/it` : `${(1 / perStep).toFixed(2)} it/s`;
    const left = `ETA ${duration(perStep * (steps - step))}`;
    const detail = this.verbose ? `  t=${timestep} ${(seconds * 1000).toFixed(0)} ms ${(flops / seconds / 1e9).toFixed(0)} GFLOP/s` : '';
    const text = `stage${stage} ${step}/${steps}, ${rate}, ${step === steps ? duration(this.stageSeconds) : left}${detail}`;
    if (this.terminal.live) return this.terminal.update(`${`stage${stage}`.padEnd(12)} ${bar(step / steps)} ${text.slice(7)}`, step === steps);
    // piped: about ten lines per stage, every step when verbose
    const interval = Math.max(1, Math.ceil(steps / 10));
    if (this.verbose || step % interval === 0 || step === steps) this.terminal.print(text);
  }
}
