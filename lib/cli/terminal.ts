const BAR_WIDTH = 24;

/** Lines of text, and on a terminal one line at the bottom that changes. */
export class Terminal {
  /** Whether it is a terminal, not a pipe or a file. */
  readonly live: boolean;
  private line = '';

  constructor(private readonly out: NodeJS.WriteStream) {
    this.live = out.isTTY === true;
  }

  /** Replaces the bottom line. @param done it stays as it is */
  update(text: string, done: boolean): void {
    const columns = this.out.columns || 80;
    this.line = text.slice(0, columns - 1);
    this.out.write(`\r\u001b[2K${this.line}`);
    if (done) this.end();
  }

  /** Writes a line above the bottom line. */
  print(text: string): void {
    if (this.line) this.out.write('\r\u001b[2K');
    this.out.write(`${text}\n`);
    if (this.line) this.out.write(this.line);
  }

  /** Leaves the cursor on a fresh line. */
  end(): void {
    if (this.line) this.out.write('\n');
    this.line = '';
  }
}

/** A bar for a fraction of 0 to 1. */
export function bar(fraction: number, width = BAR_WIDTH): string {
  const filled = Math.round(Math.min(1, Math.max(0, fraction)) * width);
  return `[${'█'.repeat(filled)}${'░'.repeat(width - filled)}]`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
