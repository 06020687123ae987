/**
 * A trie over bytes: a node per prefix, node 0 is the empty prefix. The edges of all nodes are in one open-addressing hash
 * table, so that a step is one probe whatever the alphabet and the 32,000 pieces of T5 load in milliseconds.
 */
export class ByteTrie {
  private readonly edges: Uint32Array; // parent * 256 + byte + 1 per slot, 0 = free
  private readonly targets: Uint32Array; // the child node of the edge in the same slot
  private readonly values: Int32Array; // per node, -1 = none
  private readonly mask: number;
  private readonly capacity: number;
  private nodes = 1;

  /** More bytes than this cannot be numbered in 32-bit edges: 40 times the vocabulary of T5. */
  static readonly maxBytes = 2 ** 23;

  /** @param maxBytes the sum of the lengths of all keys that will be inserted, at most `ByteTrie.maxBytes` */
  constructor(maxBytes: number) {
    this.capacity = maxBytes + 1;
    const slots = 2 ** Math.ceil(Math.log2(2 * this.capacity));
    this.mask = slots - 1;
    this.edges = new Uint32Array(slots);
    this.targets = new Uint32Array(slots);
    this.values = new Int32Array(this.capacity).fill(-1);
  }

  private slot(edge: number): number {
    let slot = (Math.imul(edge, 0x9e3779b1) >>> 7) & this.mask; // Fibonacci hashing: 2^32 / golden ratio
    while (this.edges[slot] !== 0 && this.edges[slot] !== edge) slot = (slot + 1) & this.mask;
    return slot;
  }

  /** The node of `node`'s prefix followed by `byte`, or -1. */
  child(node: number, byte: number): number {
    const edge = node * 256 + byte + 1;
    const slot = this.slot(edge);
    return this.edges[slot] === edge ? this.targets[slot]! : -1;
  }

  /** The value of a node, or -1. */
  value(node: number): number {
    return this.values[node]!;
  }

  /** Stores `value` (0 or more) under `key`. @returns the value that was there, or -1 */
  insert(key: Uint8Array, value: number): number {
    let node = 0;
    for (const byte of key) {
      const edge = node * 256 + byte + 1;
      const slot = this.slot(edge);
      if (this.edges[slot] === 0) {
        this.edges[slot] = edge;
        this.targets[slot] = this.nodes++;
      }
      node = this.targets[slot]!;
    }
    const before = this.values[node]!;
    this.values[node] = value;
    return before;
  }

  /** The length of the longest key that `bytes` has at `start`, 0 when there is none. */
  longestPrefix(bytes: Uint8Array, start: number): number {
    let longest = 0;
    let node = 0;
    for (let i = start; i < bytes.length; i++) {
      node = this.child(node, bytes[i]!);
      if (node < 0) break;
      if (this.values[node]! >= 0) longest = i + 1 - start;
    }
    return longest;
  }
}
