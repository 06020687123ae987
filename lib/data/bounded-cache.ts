/** Results that were expensive to make, the least recently used dropped first. */
export class BoundedCache<V> {
  private readonly entries = new Map<string, { value: Promise<V>; weight: number }>();
  private total = 0;

  /** @param capacity sum of the weights that are kept; the newest one is kept whatever it weighs */
  constructor(private readonly capacity: number) {}

  /** What is kept under `key`, else what `make` gives; several that ask at a time share one call. */
  get(key: string, weight: number, make: () => Promise<V>): Promise<V> {
    const found = this.entries.get(key);
    if (found) {
      this.entries.delete(key);
      this.entries.set(key, found);
      return found.value;
    }
    const entry = { value: make(), weight };
    this.entries.set(key, entry);
    this.total += weight;
    for (const [oldest, { weight: dropped }] of this.entries) {
      if (this.total <= this.capacity || oldest === key) break;
      this.entries.delete(oldest);
      this.total -= dropped;
    }
    entry.value.catch(() => {
      // not kept: the next one tries again
      if (this.entries.get(key) !== entry) return;
      this.entries.delete(key);
      this.total -= weight;
    });
    return entry.value;
  }
}
