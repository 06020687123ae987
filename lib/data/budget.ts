/** A quantity that tasks share, given out in the order of asking. */
export class Budget {
  private used = 0;
  private readonly waiting: { amount: number; start: () => void }[] = [];

  constructor(private readonly capacity: number) {}

  /**
   * Waits until `amount` is free; one that is larger than the whole is given when nothing else is out.
   * @returns gives it back; to be called once
   */
  async take(amount: number): Promise<() => void> {
    const taken = Math.min(amount, this.capacity);
    if (this.waiting.length > 0 || this.used + taken > this.capacity) {
      await new Promise<void>((start) => this.waiting.push({ amount: taken, start }));
    } else {
      this.used += taken;
    }
    return () => this.giveBack(taken);
  }

  private giveBack(amount: number): void {
    this.used -= amount;
    while (this.waiting.length > 0 && this.used + this.waiting[0]!.amount <= this.capacity) {
      const next = this.waiting.shift()!;
      this.used += next.amount;
      next.start();
    }
  }
}
