import { gigabytes } from '../pipelines/memory-plan.js';
import type { TrainingEvent } from '../training/events.js';
import { bar, duration, Terminal } from './terminal.js';

const PIPED_LINES = 50; // of steps in all
const PIPED_SECONDS = 30; // at the latest

/** Progress of a training run: one changing line on a terminal, some lines when piped. */
export class TrainingReport {
  private readonly terminal: Terminal;
  private loading = '';
  private printed = 0;
  private begun = false;

  constructor(out: NodeJS.WriteStream, private readonly verbose: boolean) {
    this.terminal = new Terminal(out);
  }

  readonly onEvent = (event: TrainingEvent): void => {
    switch (event.type) {
      case 'warning': return this.terminal.print(`warning: ${event.message}`);
      case 'status': return this.terminal.print(event.message);
      case 'plan': return this.verbose ? this.terminal.print(`plan: ${event.component}: weights ${gigabytes(event.weightBytes)}, activations ${gigabytes(event.activationBytes)}`) : undefined;
      case 'load': return this.load(event);
      case 'begin': return this.begin(event);
      case 'step': return this.step(event);
      case 'validation': return this.terminal.print(`step ${event.step}: validation loss ${event.last.loss.toFixed(5)}${event.ema ? `, of the average ${event.ema.loss.toFixed(5)}` : ''}`);
      case 'preview': return this.terminal.print(`step ${event.step}: ${event.file}`);
      case 'checkpoint': return this.terminal.print(`step ${event.step}: ${event.dir}`);
      case 'done': return this.terminal.end();
    }
  };

  /** What a first Ctrl-C does. */
  readonly stopping = (): void => this.terminal.print(this.begun ? 'stopping after this step, with a checkpoint; Ctrl-C again stops at once' : 'stopping; Ctrl-C again stops at once');

  /** Leaves the cursor on a fresh line. */
  end(): void {
    this.terminal.end();
  }

  private begin({ parameters, pictures, batchSize, steps }: Extract<TrainingEvent, { type: 'begin' }>): void {
    this.begun = true;
    this.terminal.print(`training ${(parameters / 1e6).toFixed(1)} million parameters on ${pictures} pictures, ${batchSize} per step, up to step ${steps}`);
  }

  private load({ component, done, total, unit }: Extract<TrainingEvent, { type: 'load' }>): void {
    const fraction = total > 0 ? done / total : 1;
    const amount = (value: number): string => (unit === 'bytes' ? gigabytes(value) : String(value));
    if (this.terminal.live) return this.terminal.update(`${component.padEnd(12)} ${bar(fraction)} ${amount(done)} of ${amount(total)}`, fraction >= 1);
    const now = performance.now();
    if (this.loading !== component) this.terminal.print(unit === 'bytes' ? `${component}: loading ${amount(total)}` : `${component}: ${total}`);
    else if (done < total && now - this.printed > 1000 * PIPED_SECONDS) this.terminal.print(`${component}: ${amount(done)} of ${amount(total)}`);
    else return;
    this.loading = component;
    this.printed = now;
  }

  private step(event: Extract<TrainingEvent, { type: 'step' }>): void {
    const { step, steps, loss, gradientNorm, lr, picturesPerSecond, memory, secondsLeft } = event;
    const last = step === steps;
    const rate = picturesPerSecond >= 1 ? `${picturesPerSecond.toFixed(1)} img/s` : `${(1 / picturesPerSecond).toFixed(1)} s/img`;
    const parts = [`loss ${loss.toFixed(4)}`, `norm ${gradientNorm.toPrecision(3)}`, `lr ${lr.toExponential(1)}`, rate, gigabytes(memory), ...(last ? [] : [`ETA ${duration(secondsLeft)}`])];
    if (this.terminal.live) return this.terminal.update([`${step}/${steps}`, bar(step / steps, 8), ...parts].join(' '), last); // 80 columns
    const now = performance.now();
    if (!(step === 1 || last || step % Math.ceil(steps / PIPED_LINES) === 0 || now - this.printed > 1000 * PIPED_SECONDS)) return;
    this.printed = now;
    this.terminal.print(`step ${step}/${steps}, ${parts.join(', ')}`);
  }
}
