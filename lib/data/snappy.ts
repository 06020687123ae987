/**
 * Decompresses a block of Snappy (github.com/google/snappy, format_description.txt): literals, and copies from what came
 * before.
 * @param size what the result must have, in bytes
 * @throws Error with the reason for damaged blocks
 */
export function decompressSnappy(block: Uint8Array, size: number): Uint8Array {
  const wrong = (reason: string): never => {
    throw new Error(`damaged Snappy data: ${reason}`);
  };
  let at = 0;
  let claimed = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = block[at++] ?? wrong('it has no length');
    claimed += (byte & 127) * 2 ** shift;
    if (byte < 128) break;
    if (shift >= 28) wrong('it has no length');
  }
  if (claimed !== size) wrong(`it claims ${claimed} bytes instead of ${size}`);
  const out = new Uint8Array(size);
  let filled = 0;
  /** A little-endian number. */
  const number = (bytes: number): number => {
    if (at + bytes > block.length) wrong('it ends too early');
    let value = 0;
    for (let i = 0; i < bytes; i++) value += block[at++]! * 2 ** (8 * i);
    return value;
  };
  while (at < block.length) {
    const tag = block[at++]!;
    const kind = tag & 3;
    if (kind === 0) {
      const short = tag >> 2;
      const length = (short < 60 ? short : number(short - 59)) + 1;
      if (at + length > block.length || filled + length > size) wrong('a literal is too long');
      out.set(block.subarray(at, at + length), filled);
      at += length;
      filled += length;
      continue;
    }
    const length = kind === 1 ? (tag >> 2 & 7) + 4 : (tag >> 2) + 1;
    const offset = kind === 1 ? (tag >> 5) * 256 + number(1) : number(kind === 2 ? 2 : 4);
    if (offset === 0 || offset > filled || filled + length > size) wrong('a copy reaches outside');
    if (offset >= length) out.copyWithin(filled, filled - offset, filled - offset + length);
    else for (let i = 0; i < length; i++) out[filled + i] = out[filled + i - offset]!; // it repeats itself
    filled += length;
  }
  if (filled !== size) wrong(`it gives ${filled} bytes instead of ${size}`);
  return out;
}
