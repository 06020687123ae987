import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { ConfigReader } from '../models/config-reader.js';
import { parseJson } from '../models/json.js';
import { readSentencePieceModel } from './sentencepiece.js';
import { readTokenizerJson } from './tokenizer-json.js';
import type { UnigramModel } from './unigram.js';

const PAD = 0;
const EOS = 1;
const REQUIRED = ['<pad>', '</s>', '<unk>']; // ids 0, 1, 2 in every T5
const SPECIAL = /<pad>|<\/s>|<unk>|<extra_id_(?:0|[1-9]\d*)>/g;
const MAX_FILE_BYTES = 2 ** 26; // the largest published tokenizer.json of a T5 is 2.4 MB, of an mT5 16 MB
const MAX_EXTRA_IDS = 2 ** 16;

/** The bytes of a file, undefined when there is none. */
async function readOptional(file: string): Promise<Buffer | undefined> {
  try {
    const { size } = await stat(file);
    if (size > MAX_FILE_BYTES) {
      throw new IFError('FILE_FORMAT', `${file}: ${size} bytes, expected at most ${MAX_FILE_BYTES}: not a tokenizer file`);
    }
    return await readFile(file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw ioError('reading', file, error);
  }
}

/** The text of a prompt as T5 reads it. */
export interface PaddedTokens {
  /** Shape (maxLength): the ids with `</s>` last, then `<pad>`. */
  ids: Int32Array;
  /** Shape (maxLength): 1 for ids of the text and `</s>`, 0 for padding. */
  mask: Int32Array;
  /** The text that did not fit, empty when all of it did. */
  removed: string;
}

/**
 * The tokenizer of T5 (Raffel et al. 2020): the special pieces `<pad>` 0, `</s>` 1, `<unk>` 2 and `<extra_id_0>` … are
 * recognised in the text, what is between them is encoded by a SentencePiece unigram model part by part, and `</s>` is
 * appended (transformers `T5Tokenizer` with legacy=True).
 */
export class T5Tokenizer {
  /** One more than the greatest id, extra ids included: 32,100 for the published models, whose embeddings have 32,128 rows. */
  readonly vocabSize: number;
  private readonly special: ReadonlyMap<string, number>;

  /**
   * @param model the vocabulary; `<pad>`, `</s>` and `<unk>` must be its pieces 0, 1 and 2
   * @param extraIds how many sentinels `<extra_id_i>` there are. Those that the vocabulary lacks have the ids behind it,
   *   counted downwards: `<extra_id_0>` is the last.
   * @param fingerprint sha256 (hexadecimal) of the file that the model was read from; a key for caches
   * @throws IFError `UNSUPPORTED` when the first three pieces are others
   */
  constructor(private readonly model: UnigramModel, extraIds: number, readonly fingerprint: string, where: string) {
    REQUIRED.forEach((piece, id) => {
      const found = id < model.pieces.length ? model.pieceText(id) : undefined;
      if (found !== piece || (id === 2 && model.unknownId !== 2)) {
        throw new IFError('UNSUPPORTED', `${where}: piece ${id} is ${JSON.stringify(found)} (id of unknown characters: `
          + `${model.unknownId}), expected "${piece}" as in T5: use the tokenizer of a T5 model`);
      }
    });
    const ids = new Map<string, number>();
    model.pieces.forEach((_, id) => {
      const piece = model.pieceText(id);
      if (id < REQUIRED.length || /^<extra_id_\d+>$/.test(piece)) ids.set(piece, id);
    });
    this.vocabSize = model.pieces.length;
    for (let i = extraIds - 1; i >= 0; i--) {
      if (!ids.has(`<extra_id_${i}>`)) ids.set(`<extra_id_${i}>`, this.vocabSize++);
    }
    this.special = ids;
  }

  /**
   * Loads the tokenizer of a model folder: `spiece.model`, or `tokenizer.json` when there is none; the number of extra ids
   * comes from `tokenizer_config.json` (default 100).
   * @throws IFError `NOT_FOUND` when neither file is there; `FILE_FORMAT` or `UNSUPPORTED` as `readSentencePieceModel`,
   *   `readTokenizerJson` and the constructor; `IO` when the operating system refuses
   */
  static async load(dir: string): Promise<T5Tokenizer> {
    const spieceFile = path.join(dir, 'spiece.model');
    const jsonFile = path.join(dir, 'tokenizer.json');
    const configFile = path.join(dir, 'tokenizer_config.json');
    const spiece = await readOptional(spieceFile);
    const content = spiece ?? await readOptional(jsonFile);
    if (!content) {
      throw new IFError('NOT_FOUND', `${dir}: has neither spiece.model nor tokenizer.json: expected the tokenizer folder of a `
        + 'T5 or DeepFloyd IF model');
    }
    const config = new ConfigReader(parseJson((await readOptional(configFile))?.toString('utf8') ?? '{}', configFile), configFile);
    const extraIds = config.integer('extra_ids', 100, { min: 0, max: MAX_EXTRA_IDS });
    const where = spiece ? spieceFile : jsonFile;
    const model = spiece ? readSentencePieceModel(content, where) : readTokenizerJson(content.toString('utf8'), where);
    return new T5Tokenizer(model, extraIds, createHash('sha256').update(content).digest('hex'), where);
  }

  /** The ids of `text`, any length, `</s>` (1) last. Unknown characters are `<unk>` (2), runs of them one id. */
  encode(text: string): number[] {
    const ids = this.parts(text).flatMap((part) => (typeof part === 'number' ? [part] : this.model.encode(part)));
    ids.push(EOS);
    return ids;
  }

  /**
   * The ids of `text` cut off or padded to a fixed length, as IF takes them: `</s>` stays last.
   * @param maxLength 1 or more; 77 is what every IF model was trained with
   * @throws IFError `INVALID_ARGUMENT` for another maxLength
   */
  encodePadded(text: string, maxLength = 77): PaddedTokens {
    if (!Number.isInteger(maxLength) || maxLength < 1 || maxLength > 2 ** 20) {
      throw new IFError('INVALID_ARGUMENT', `encodePadded: maxLength: expected a whole number from 1 to ${2 ** 20}, got ${maxLength}`);
    }
    const all = this.encode(text);
    const kept = all.length <= maxLength ? all : [...all.slice(0, maxLength - 1), EOS];
    const ids = new Int32Array(maxLength).fill(PAD);
    ids.set(kept);
    const mask = new Int32Array(maxLength).fill(1, 0, kept.length);
    return { ids, mask, removed: kept === all ? '' : this.textFrom(text, maxLength - 1) };
  }

  /** The text between special pieces, and the ids of those. */
  private parts(text: string): (string | number)[] {
    const parts: (string | number)[] = [];
    let start = 0;
    for (const match of text.matchAll(SPECIAL)) {
      const id = this.special.get(match[0]);
      if (id === undefined) continue; // an <extra_id_…> that this model does not have is text
      if (match.index > start) parts.push(text.slice(start, match.index));
      parts.push(id);
      start = match.index + match[0].length;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }

  /** The normalised text of the ids from `first` on. */
  private textFrom(text: string, first: number): string {
    const names = new Map([...this.special].map(([name, id]) => [id, name]));
    return this.parts(text)
      .flatMap((part) => (typeof part === 'number' ? [names.get(part)!] : this.model.encodePieces(part).map((piece) => piece.text)))
      .slice(first).join('').trim();
  }
}
