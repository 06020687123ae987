import { IFError } from '../errors.js';
import { ConfigReader } from '../models/config-reader.js';
import { describeJson, isJsonObject, parseJson } from '../models/json.js';
import { Charsmap } from './charsmap.js';
import { PieceType, UnigramModel, type NormalizerSpec, type Piece } from './unigram.js';

const SPACE = '\u2581';
const MAX_PIECES = 2 ** 22;
const utf8 = new TextEncoder();

/** The steps of a normalizer or pre_tokenizer: those of a Sequence, or the one. */
function steps(json: unknown, listKey: string, where: string): ConfigReader[] {
  const reader = new ConfigReader(json, where);
  if (reader.raw('type', undefined) !== 'Sequence') return [reader];
  return reader.list(listKey, reader.raw(listKey, undefined), 8, (field, step) => new ConfigReader(step, `${where}.${field}`));
}

// What SentencePiece's remove_extra_whitespaces does is spelled out as Strip and Replace in some files.
function isWhitespaceStep(step: ConfigReader): boolean {
  const type = step.raw('type', undefined);
  if (type === 'Strip') return true;
  if (type !== 'Replace') return false;
  const pattern = step.raw('pattern', undefined);
  const content = step.raw('content', undefined);
  return isJsonObject(pattern) && pattern.Regex === ' {2,}' && (content === ' ' || content === SPACE);
}

function readNormalizer(json: unknown, where: string): Charsmap {
  let charsmap: Charsmap | undefined;
  for (const step of steps(json, 'normalizers', `${where}: normalizer`)) {
    if (step.raw('type', undefined) === 'Precompiled') {
      const base64 = step.raw('precompiled_charsmap', undefined);
      charsmap = typeof base64 === 'string' && /^[A-Za-z0-9+/]*={0,2}$/.test(base64)
        ? new Charsmap(Buffer.from(base64, 'base64'), where)
        : step.wrong('precompiled_charsmap', 'a base64 string', base64);
    } else if (!isWhitespaceStep(step)) {
      step.unsupported('type', step.raw('type', null), 'Precompiled, Strip, and Replace of repeated spaces');
    }
  }
  return charsmap ?? new ConfigReader(json, where).unsupported('normalizer', json, 'one with a Precompiled step, as T5 has');
}

function checkPreTokenizer(json: unknown, where: string): void {
  let metaspace = false;
  for (const step of steps(json, 'pretokenizers', `${where}: pre_tokenizer`)) {
    const type = step.raw('type', null);
    if (type === 'Metaspace') {
      metaspace = true;
      step.only('replacement', SPACE, SPACE);
      step.only('add_prefix_space', true, true);
      // "first" differs from "always" behind special pieces only, where Google's T5 puts the prefix as well.
      step.choice('prepend_scheme', step.raw('prepend_scheme', 'always'), new Map([['always', true], ['first', true]]));
    } else if (type !== 'WhitespaceSplit') step.unsupported('type', type, 'Metaspace, WhitespaceSplit');
  }
  if (!metaspace) new ConfigReader(json, where).unsupported('pre_tokenizer', json, 'one with a Metaspace step, as T5 has');
}

function readAddedTokens(root: ConfigReader): { id: number; content: string }[] {
  const value = root.raw('added_tokens', []);
  if (!Array.isArray(value)) root.wrong('added_tokens', 'a list', value);
  return value.map((entry, i) => {
    const token: ConfigReader = new ConfigReader(entry, `${root.where}: added_tokens[${i}]`);
    const content = token.raw('content', undefined);
    if (typeof content !== 'string') token.wrong('content', 'a string', content);
    token.only('special', true, true); // the others would be matched in the text like user-defined symbols
    return { id: token.integer('id', undefined, { min: 0, max: MAX_PIECES }), content };
  });
}

/**
 * Reads a Hugging Face `tokenizer.json` of a T5 tokenizer into the model that `spiece.model` gives: the same charsmap, pieces
 * and scores, so that it gives Google's ids. (The tokenizers library replaces by grapheme cluster and differs on a few odd
 * code points.) Truncation, padding, post_processor and decoder are not used: `T5Tokenizer` does what they describe.
 * @param text the content of the file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT` when it is not JSON or has wrong types; `UNSUPPORTED`, naming field and value, for another
 *   model than Unigram, another normalizer than Precompiled (with Strip, or Replace of repeated spaces), another
 *   pre_tokenizer than Metaspace (with WhitespaceSplit), and added tokens that are not special
 */
export function readTokenizerJson(text: string, where: string): UnigramModel {
  const root = new ConfigReader(parseJson(text, where), where);
  const model: ConfigReader = new ConfigReader(root.raw('model', undefined), `${where}: model`);
  model.only('type', null, 'Unigram');
  model.only('byte_fallback', false, false);
  const normalizer: NormalizerSpec = {
    charsmap: readNormalizer(root.raw('normalizer', null), where),
    addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true, // what Metaspace and WhitespaceSplit mean
  };
  checkPreTokenizer(root.raw('pre_tokenizer', null), where);

  const vocabulary = model.raw('vocab', undefined);
  if (!Array.isArray(vocabulary) || vocabulary.length > MAX_PIECES) model.wrong('vocab', `a list of at most ${MAX_PIECES} pieces`, vocabulary);
  const unknownId = model.integer('unk_id', undefined, { min: 0, max: Math.max(0, vocabulary.length - 1) });
  const special = new Map(readAddedTokens(root).map(({ id, content }) => [id, content]));
  const pieces = vocabulary.map((entry: unknown, id): Piece => {
    const [piece, score] = Array.isArray(entry) ? entry as unknown[] : [];
    if (typeof piece !== 'string' || typeof score !== 'number') {
      return model.wrong(`vocab[${id}]`, 'a pair of string and number', entry);
    }
    const added = special.get(id);
    if (added !== undefined && added !== piece) model.wrong(`vocab[${id}]`, `${describeJson(added)} as in added_tokens`, piece);
    // Pieces for extra ids are in the vocabulary, with score 0, whether or not added_tokens lists them.
    const control = added !== undefined || /^<extra_id_\d+>$/.test(piece);
    const type = id === unknownId ? PieceType.unknown : control ? PieceType.control : PieceType.normal;
    return { bytes: utf8.encode(piece), score: Math.fround(score), type };
  });
  return new UnigramModel(pieces, normalizer, where);
}
