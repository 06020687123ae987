import type { Dataset, LoadSampleOptions, Sample } from '../../lib/data/dataset.js';

export interface FakeDatasetOptions {
  length: number;
  /** Milliseconds that a picture takes. */
  delay?: (index: number) => number;
  unreadable?: readonly number[];
}

/** Pictures of one colour, caption "picture INDEX"; each visit's random numbers are kept. */
export class FakeDataset implements Dataset {
  readonly description = 'fake data';
  readonly skipped: { key: string; reason: string }[] = [];
  readonly visits: { index: number; random: number }[] = [];
  active = 0;
  mostActive = 0;
  closed = false;

  constructor(private readonly options: FakeDatasetOptions) {}

  get length(): number {
    return this.options.length;
  }

  async *captions(): AsyncIterable<string> {
    for (let i = 0; i < this.length; i++) yield `picture ${i}`;
  }

  async load(index: number, { width, height, random }: LoadSampleOptions): Promise<Sample | undefined> {
    this.visits.push({ index, random: random() });
    this.mostActive = Math.max(this.mostActive, ++this.active);
    await new Promise((resolve) => setTimeout(resolve, this.options.delay?.(index) ?? 0));
    this.active--;
    if (this.options.unreadable?.includes(index)) {
      if (!this.skipped.some(({ key }) => key === `p${index}`)) this.skipped.push({ key: `p${index}`, reason: 'broken' });
      return undefined;
    }
    return { key: `p${index}`, image: new Uint8Array(3 * width * height).fill((37 * index) % 256), width, height, caption: `picture ${index}` };
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}
