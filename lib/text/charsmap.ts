import { IFError } from '../errors.js';

/** The first byte of a UTF-8 character gives its length, 1 to 4. */
export function utf8Length(first: number): number {
  return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

// The longest replacement of NFKC is 33 bytes (U+FDFA); a damaged file must not make text grow without bound.
const MAX_REPLACEMENT = 1024;

/**
 * The character replacements of SentencePiece (`precompiled_charsmap` of its normalizer_spec): a double-array trie whose
 * keys are UTF-8 strings and whose values are offsets of NUL-terminated replacements.
 *
 * Layout: uint32 size of the trie in bytes, the trie (uint32 units), the replacements; all little-endian
 * (google/sentencepiece src/normalizer.cc). A unit holds the byte that leads to it in bits 0-7, bit 8 whether a value
 * hangs below it, the offset of its children in bits 10-30, to be shifted by 8 when bit 9 is set; bit 31 marks a unit that
 * holds a value (s-yata/darts-clone).
 */
export class Charsmap {
  private readonly units: Uint32Array;
  private readonly replacements: Uint8Array;

  /**
   * @param where how messages call the file
   * @throws IFError `FILE_FORMAT` when the sizes do not agree or a replacement has no end
   */
  constructor(blob: Uint8Array, private readonly where: string) {
    const fail = (what: string): never => {
      throw new IFError('FILE_FORMAT', `${where}: precompiled_charsmap: ${what}: the file is damaged`);
    };
    if (blob.length < 8) fail(`expected at least 8 bytes, got ${blob.length}`);
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const size = view.getUint32(0, true);
    if (size < 4 || size % 4 !== 0 || size > blob.length - 4) {
      fail(`trie of ${size} bytes, expected a multiple of 4 from 4 to ${blob.length - 4}`);
    }
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.replacements = blob.subarray(4 + size);
    let length = 0;
    for (const byte of this.replacements) {
      length = byte === 0 ? 0 : length + 1;
      if (length > MAX_REPLACEMENT) fail(`a replacement of more than ${MAX_REPLACEMENT} bytes`);
    }
    if (length > 0) fail('the last replacement does not end');
  }

  /**
   * The longest rule that matches `text` (UTF-8) at `start`.
   * @returns undefined when none does, else the length of what it replaces and the replacement
   */
  match(text: Uint8Array, start: number): { length: number; replacement: Uint8Array } | undefined {
    const { units, replacements } = this;
    const childOffset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);
    let length = 0;
    let value = 0;
    let position = childOffset(units[0]!);
    for (let i = start; i < text.length; i++) {
      position ^= text[i]!;
      const unit = units[position];
      if (unit === undefined || (unit & 0x8000_00ff) !== text[i]) break;
      position ^= childOffset(unit);
      if (unit & 0x100) {
        length = i + 1 - start;
        value = (units[position] ?? 0x7fff_ffff) & 0x7fff_ffff;
      }
    }
    if (length === 0) return undefined;
    if (value >= replacements.length) {
      throw new IFError('FILE_FORMAT', `${this.where}: precompiled_charsmap: a rule points to byte ${value} of the replacements, `
        + `expected less than ${replacements.length}: the file is damaged`);
    }
    return { length, replacement: replacements.subarray(value, replacements.indexOf(0, value)) };
  }
}
