// torch's CPU generator, for tests that replay recorded trajectories without the native core.
// mt19937: Matsumoto & Nishimura 1998. Normal order: ATen/native/cpu/DistributionTemplates.h.

export class TorchRng {
  private readonly state = new Uint32Array(624);
  private index = 624;
  private cached: number | undefined;

  /** Seeds with the low 32 bits of `seed`, as at::mt19937 does. */
  constructor(seed: bigint | number) {
    this.state[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let i = 1; i < 624; i++) {
      const s = this.state[i - 1]!;
      this.state[i] = Math.imul(1812433253, s ^ (s >>> 30)) + i;
    }
  }

  /** The next 32 bits. */
  integer(): number {
    const s = this.state;
    if (this.index === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i]! & 0x80000000) | (s[(i + 1) % 624]! & 0x7fffffff);
        s[i] = s[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.index = 0;
    }
    let y = s[this.index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** torch.rand: 24 bits. */
  private uniform(): number {
    return (this.integer() & 0xffffff) / 2 ** 24;
  }

  /** 53 bits of a 64-bit draw, high word first. */
  private uniformDouble(): number {
    const high = BigInt(this.integer());
    return Number(((high << 32n) | BigInt(this.integer())) & ((1n << 53n) - 1n)) / 2 ** 53;
  }

  /** torch.randn(n), float32. */
  randn(n: number): Float32Array {
    const out = new Float32Array(n);
    if (n < 16) {
      for (let i = 0; i < n; i++) out[i] = this.normalDouble();
      return out;
    }
    for (let i = 0; i < n; i++) out[i] = this.uniform();
    for (let i = 0; i + 16 <= n; i += 16) boxMuller16(out, i);
    if (n % 16) {
      // the last 16 values are drawn again
      for (let i = n - 16; i < n; i++) out[i] = this.uniform();
      boxMuller16(out, n - 16);
    }
    return out;
  }

  private normalDouble(): number {
    if (this.cached !== undefined) {
      const value = this.cached;
      this.cached = undefined;
      return value;
    }
    const angle = 2 * Math.PI * this.uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniformDouble()));
    this.cached = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** Value j pairs with j + 8: radius from the first uniform, angle from the second. */
function boxMuller16(out: Float32Array, at: number): void {
  for (let j = at; j < at + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - out[j]!));
    const angle = 2 * Math.PI * out[j + 8]!;
    out[j] = radius * Math.cos(angle);
    out[j + 8] = radius * Math.sin(angle);
  }
}
