import type { ProgressEvent } from '../pipelines/progress.js';
import { gigabytes } from '../pipelines/memory-plan.js';

const BAR_WIDTH = 24;

/** Progress of a run: a bar per component on a terminal, plain lines when piped. */
export class ProgressReport {
  private line = '';
  private stageSeconds = 0;
  private announced = '';
  private readonly live: boolean;

  constructor(private readonly out: NodeJS.WriteStream, private readonly verbose: boolean) {
    this.live = out.isTTY === true;
  }

  readonly onProgress = (event: ProgressEvent): void => {
    switch (event.type) {
      case 'warning': return this.print(`warning: ${event.message}`);
      case 'plan': return this.verbose ? this.print(`plan: ${event.component}: weights ${gigabytes(event.weightBytes)}, activations ${gigabytes(event.activationBytes)}`) : undefined;
      case 'load': return this.bytes(event.component, 'loading', event.done, event.total);
      case 'step': return this.step(event);
    }
  };

  /** Leaves the cursor on a fresh line. */
  end(): void {
    if (this.line) this.out.write('\n');
    this.line = '';
  }

  /** Bytes done of a file or component: a bar, or one line when piped. */
  bytes(label: string, verb: string, done: number, total: number): void {
    const fraction = total > 0 ? done / total : 1;
    if (this.live) return this.update(`${label.padEnd(12)} ${bar(fraction)} ${gigabytes(done)} of ${gigabytes(total)}`, fraction >= 1);
    const line = `${label}: ${verb} ${gigabytes(total)}`;
    if (this.announced !== line) this.print(line);
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
    if (this.live) return this.update(`${`stage${stage}`.padEnd(12)} ${bar(step / steps)} ${text.slice(7)}`, step === steps);
    // piped: about ten lines per stage, every step when verbose
    const interval = Math.max(1, Math.ceil(steps / 10));
    if (this.verbose || step % interval === 0 || step === steps) this.print(text);
  }

  private update(text: string, done: boolean): void {
    const columns = this.out.columns || 80;
    this.line = text.slice(0, columns - 1);
    this.out.write(`\r\u001b[2K${this.line}`);
    if (done) this.end();
  }

  private print(text: string): void {
    if (this.line) this.out.write('\r\u001b[2K');
    this.out.write(`${text}\n`);
    if (this.line) this.out.write(this.line);
  }
}

function bar(fraction: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, fraction)) * BAR_WIDTH);
  return `[${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)}]`;
}

function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
