import { IFError } from '../errors.js';
import { ByteTrie } from './byte-trie.js';
import { Charsmap, utf8Length } from './charsmap.js';

/** How a piece takes part in encoding; the numbers are those of sentencepiece_model.proto. */
export const PieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
export type PieceType = (typeof PieceType)[keyof typeof PieceType];

/** One entry of the vocabulary; its index is the id. */
export interface Piece {
  /** UTF-8, with U+2581 where the text has a space. */
  bytes: Uint8Array;
  /** Natural logarithm of the probability, float32. */
  score: number;
  type: PieceType;
}

/** The normalizer_spec of a SentencePiece model. */
export interface NormalizerSpec {
  /** Character replacements, undefined when the model has none. */
  charsmap: Charsmap | undefined;
  /** A space in front of the text, so that its first word is the same piece as elsewhere. */
  addDummyPrefix: boolean;
  /** Spaces at both ends are removed, runs of them become one. */
  removeExtraWhitespaces: boolean;
  /** A space becomes U+2581. */
  escapeWhitespaces: boolean;
}

const SPACE = 0x20;
const UNKNOWN_PENALTY = 10; // google/sentencepiece src/unigram_model.cc kUnkPenalty
const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder('utf-8', { ignoreBOM: true }); // U+FEFF is text here

/** Bytes that are appended one by one or in groups. */
class ByteWriter {
  length = 0;
  private bytes = new Uint8Array(256);

  push(source: Uint8Array | readonly number[]): void {
    if (this.length + source.length > this.bytes.length) {
      const grown = new Uint8Array(2 * (this.length + source.length));
      grown.set(this.bytes.subarray(0, this.length));
      this.bytes = grown;
    }
    this.bytes.set(source, this.length);
    this.length += source.length;
  }

  written(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }
}

/**
 * A unigram language model tokenizer (Kudo 2018, "Subword Regularization") that gives the ids of Google's
 * `SentencePieceProcessor::EncodeAsIds`: the text is normalised, then cut into the pieces whose scores have the greatest
 * sum (Viterbi with float32 sums and comparisons as in release 0.2.2, so that near ties fall the same way; older releases
 * compare in double, and score user-defined symbols differently).
 */
export class UnigramModel {
  /** The id of unknown characters. */
  readonly unknownId: number;
  private readonly trie: ByteTrie;
  private readonly userDefined: ByteTrie | undefined;
  private readonly unknownScore: number;
  private readonly space: Uint8Array; // what stands for a space in normalised text

  /**
   * @param where how messages call the file that the pieces come from
   * @throws IFError `FILE_FORMAT` when a piece is empty or occurs twice, when there is not exactly one unknown piece, or no
   *   normal one; `UNSUPPORTED` for a vocabulary of more than 8 MiB of text
   */
  constructor(readonly pieces: readonly Piece[], private readonly normalizer: NormalizerSpec, where: string) {
    const fail = (what: string): never => {
      throw new IFError('FILE_FORMAT', `${where}: ${what}: the file is damaged, or not a unigram model`);
    };
    const bytes = pieces.reduce((sum, piece) => sum + piece.bytes.length, 0);
    if (bytes > ByteTrie.maxBytes) {
      throw new IFError('UNSUPPORTED', `${where}: a vocabulary of ${bytes} bytes, expected at most ${ByteTrie.maxBytes}`);
    }
    this.space = normalizer.escapeWhitespaces ? utf8.encode('\u2581') : Uint8Array.of(SPACE);
    this.trie = new ByteTrie(bytes);
    const symbols = pieces.filter((piece) => piece.type === PieceType.userDefined);
    this.userDefined = symbols.length > 0 ? new ByteTrie(symbols.reduce((sum, piece) => sum + piece.bytes.length, 0)) : undefined;
    let minScore = Infinity;
    let unknownId = -1;
    pieces.forEach((piece, id) => {
      if (piece.bytes.length === 0) fail(`piece ${id} is empty`);
      if (!Number.isFinite(piece.score)) fail(`piece ${id}: score ${piece.score}, expected a finite number`);
      if (piece.type === PieceType.unknown) {
        if (unknownId >= 0) fail(`pieces ${unknownId} and ${id} are both of type UNKNOWN, expected one`);
        unknownId = id;
      } else if (piece.type === PieceType.normal) {
        minScore = Math.min(minScore, piece.score);
      }
      if (piece.type === PieceType.normal || piece.type === PieceType.userDefined || piece.type === PieceType.unused) {
        const before = this.trie.insert(piece.bytes, id);
        if (before >= 0) fail(`pieces ${before} and ${id} are both ${JSON.stringify(this.pieceText(id))}`);
      }
      if (piece.type === PieceType.userDefined) this.userDefined!.insert(piece.bytes, id);
    });
    if (unknownId < 0) fail('no piece is of type UNKNOWN, expected one');
    if (minScore === Infinity) fail(`none of the ${pieces.length} pieces is of type NORMAL`);
    this.unknownId = unknownId;
    this.unknownScore = Math.fround(minScore - UNKNOWN_PENALTY);
  }

  /** The text of a piece, U+2581 standing for a space. `id` is 0 to pieces.length - 1. */
  pieceText(id: number): string {
    return fromUtf8.decode(this.pieces[id]!.bytes);
  }

  /** The ids of `text`, without any special piece. Consecutive unknown characters are one id. Lone surrogates are U+FFFD. */
  encode(text: string): number[] {
    return this.segment(this.normalizeBytes(text)).ids;
  }

  /** What `encode` gives, each id with the normalised text that it stands for (of unknown characters, too). */
  encodePieces(text: string): { id: number; text: string }[] {
    const normalized = this.normalizeBytes(text);
    const { ids, ends } = this.segment(normalized);
    return ids.map((id, i) => ({ id, text: fromUtf8.decode(normalized.subarray(ends[i - 1] ?? 0, ends[i])).replaceAll('\u2581', ' ') }));
  }

  /** The text that is cut into pieces: replaced characters, spaces and prefix as the normalizer_spec says. */
  normalize(text: string): string {
    return fromUtf8.decode(this.normalizeBytes(text));
  }

  /** One step of normalisation at `start`: what replaces the next `length` bytes. */
  private nextReplacement(text: Uint8Array, start: number): { length: number; replacement: Uint8Array } {
    const symbol = this.userDefined?.longestPrefix(text, start) ?? 0;
    if (symbol === 0) {
      const rule = this.normalizer.charsmap?.match(text, start);
      if (rule) return rule;
    }
    const length = symbol || utf8Length(text[start]!);
    return { length, replacement: text.subarray(start, start + length) };
  }

  private normalizeBytes(text: string): Uint8Array {
    const source = utf8.encode(text);
    const { addDummyPrefix, removeExtraWhitespaces } = this.normalizer;
    const out = new ByteWriter();
    let start = 0;
    while (removeExtraWhitespaces && start < source.length) {
      const { length, replacement } = this.nextReplacement(source, start);
      if (replacement.length !== 1 || replacement[0] !== SPACE) break;
      start += length;
    }
    if (start >= source.length) return out.written();
    if (addDummyPrefix) out.push(this.space);
    let afterSpace = removeExtraWhitespaces;
    while (start < source.length) {
      const { length, replacement } = this.nextReplacement(source, start);
      start += length;
      let skip = 0;
      while (afterSpace && replacement[skip] === SPACE) skip++;
      for (const byte of replacement.subarray(skip)) out.push(byte === SPACE ? this.space : [byte]);
      if (removeExtraWhitespaces && skip < replacement.length) afterSpace = replacement.at(-1) === SPACE;
    }
    const endsWithSpace = (): boolean => out.length >= this.space.length
      && this.space.every((byte, i) => out.written()[out.length - this.space.length + i] === byte);
    while (removeExtraWhitespaces && endsWithSpace()) out.length -= this.space.length;
    return out.written();
  }

  /** The best path through `text` (normalised UTF-8): ids, and for each the byte where its text ends. */
  private segment(text: Uint8Array): { ids: number[]; ends: number[] } {
    const length = text.length;
    const bestStart = new Int32Array(length + 1).fill(-1); // where the last piece of the best path to here starts
    const bestId = new Int32Array(length + 1);
    const bestScore = new Float32Array(length + 1);
    const offer = (start: number, end: number, id: number, score: number): void => {
      const sum = Math.fround(score + bestScore[start]!);
      if (bestStart[end] !== -1 && !(sum > bestScore[end]!)) return;
      bestStart[end] = start;
      bestId[end] = id;
      bestScore[end] = sum;
    };
    for (let start = 0; start < length;) {
      const character = Math.min(utf8Length(text[start]!), length - start);
      let known = false; // whether this character by itself is a piece
      let node = 0;
      for (let end = start + 1; end <= length; end++) {
        node = this.trie.child(node, text[end - 1]!);
        if (node < 0) break;
        const id = this.trie.value(node);
        if (id < 0) continue;
        const { type, score } = this.pieces[id]!;
        if (type === PieceType.unused) continue;
        // User-defined symbols are to be chosen, long ones first: 0.1 per byte after the first, whatever the file says.
        offer(start, end, id, type === PieceType.userDefined ? Math.fround(0.1 * (end - start - 1)) : score);
        if (end - start === character) known = true;
      }
      if (!known) offer(start, start + character, this.unknownId, this.unknownScore);
      start += character;
    }
    const ids: number[] = [];
    const ends: number[] = [];
    for (let end = length; end > 0; end = bestStart[end]!) {
      if (bestId[end] === this.unknownId && ids.at(-1) === this.unknownId) continue;
      ids.push(bestId[end]!);
      ends.push(end);
    }
    return { ids: ids.reverse(), ends: ends.reverse() };
  }
}
