import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { IFError } from '../../lib/errors.js';
import { readSentencePieceModel } from '../../lib/text/sentencepiece.js';
import { T5Tokenizer } from '../../lib/text/t5-tokenizer.js';
import { readTokenizerJson } from '../../lib/text/tokenizer-json.js';
import type { UnigramModel } from '../../lib/text/unigram.js';

const golden = path.join(import.meta.dirname, '../golden');
const spiece = readFileSync(path.join(golden, 'tokenizer/dir/spiece.model'));
const json = readFileSync(path.join(golden, 'tiny-if-I/tokenizer/tokenizer.json'));
const TEXTS = ['a red apple', ' ①ﬁ ﷺ  Ωé\u0301 漢字 🍎</s>', 'xyz'.repeat(50)];
const PROBE = 'a photo of ｆｕｌｌ width, naïve ① ﬁne 🍎!';

const varint = (value: number): number[] => (value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))]);
const field = (number: number, bytes: Uint8Array | number[]): number[] => [...varint(number * 8 + 2), ...varint(bytes.length), ...bytes];
const number = (id: number, value: number): number[] => [...varint(id * 8), ...varint(value)];
const piece = (text: string, score: number, type: number): number[] => field(1, [
  ...field(1, Buffer.from(text)), 2 * 8 + 5, ...new Uint8Array(Float32Array.of(score).buffer), ...number(3, type),
]);
const special = [...piece('<pad>', 0, 3), ...piece('</s>', 0, 3), ...piece('<unk>', 0, 2)];
const trainer = field(2, number(3, 1));
const normalizer = field(3, []);
const read = (...parts: number[][]): UnigramModel => readSentencePieceModel(Uint8Array.from(parts.flat()), 'spiece.model');
const failure = (run: () => unknown): IFError => {
  try {
    run();
  } catch (error) {
    if (error instanceof IFError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
};

describe('readSentencePieceModel', () => {
  it('cuts into the pieces of the greatest sum, user-defined ones first', () => {
    const model = read(special, piece('\u2581', -2, 1), piece('a', -2, 1), piece('b', -2, 1), piece('ab', -3, 1), piece('abb', -9, 1),
      piece('bba', -1, 4), piece('ba', -0.5, 5), trainer, normalizer);
    expect(model.encode('ab')).toEqual([3, 6]); // -3 against -4
    expect(model.encode('abb')).toEqual([3, 6, 5]); // -5 against -9
    expect(model.encode('abba')).toEqual([3, 4, 8]); // bba is user-defined
    expect(model.encode('bbabba')).toEqual([3, 8, 8]);
    expect(model.encode('ba')).toEqual([3, 5, 4]); // ba is unused
    expect(model.encode('xxa')).toEqual([3, 2, 4]); // unknown characters are one id
    expect(model.encode('  a   b ')).toEqual([3, 4, 3, 5]);
    expect(model.encode('</s>')).toEqual([3, 2]); // control pieces are never in the text
    expect(model.encode('')).toEqual([]);
    expect(model.encode(' ')).toEqual([]);
  });

  it('breaks ties as sentencepiece 0.2.2 does, in float32', () => {
    const model = read(special, piece('\u2581', -2.1, 1), piece('a', -1.4, 1), piece('b', -8.2, 1), piece('ab', -9.6, 1), piece('ba', -9.6, 1),
      trainer, normalizer);
    expect(model.encode('baab')).toEqual([3, 5, 4, 6]); // in double, a and b would be apart
  });

  it('obeys the normalizer_spec', () => {
    const spec = field(3, [...number(3, 0), ...number(4, 0), ...number(5, 0)]); // no prefix, keep spaces, do not escape
    const model = read(special, piece(' ', -2, 1), piece('a', -2, 1), trainer, spec);
    expect(model.encode(' a  a ')).toEqual([3, 4, 3, 3, 4, 3]);
    expect(model.normalize(' a  a ')).toBe(' a  a ');
  });

  it.each<[string, number[][], RegExp]>([
    ['no unknown piece', [piece('a', -1, 1), trainer, normalizer], /UNKNOWN/],
    ['two unknown pieces', [special, piece('?', 0, 2), piece('a', -1, 1), trainer, normalizer], /UNKNOWN/],
    ['no normal piece', [special, trainer, normalizer], /NORMAL/],
    ['equal pieces', [special, piece('a', -1, 1), piece('a', -2, 1), trainer, normalizer], /3 and 4.*"a"/],
    ['an empty piece', [special, piece('', -1, 1), trainer, normalizer], /piece 3 is empty/],
    ['a score that is no number', [special, piece('a', NaN, 1), trainer, normalizer], /piece 3: score NaN/],
    ['an unknown type', [special, piece('a', -1, 9), trainer, normalizer], /piece 3: type 9/],
    ['no trainer_spec', [special, piece('a', -1, 1), normalizer], /trainer_spec/],
    ['no normalizer_spec', [special, piece('a', -1, 1), trainer], /normalizer_spec/],
    ['a piece that is a number', [number(1, 5)], /expected bytes/],
    ['an endless number', [new Array<number>(20).fill(0x80)], /more than 10 bytes/],
    ['a length beyond the end', [[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]], /long/],
    ['a group', [[11]], /wire type 3/],
    ['field number 0', [[2, 0]], /field number 0/],
    ['a charsmap without trie', [special, piece('a', -1, 1), trainer, field(3, field(2, [1, 2, 3]))], /charsmap.*got 3/],
    ['a charsmap with a trie beyond its end', [special, piece('a', -1, 1), trainer, field(3, field(2, [0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]))], /charsmap: trie of/],
    ['an endless replacement', [special, piece('a', -1, 1), trainer, field(3, field(2, [4, 0, 0, 0, 0, 0, 0, 0, 65]))], /does not end/],
    ['a huge replacement', [special, piece('a', -1, 1), trainer, field(3, field(2, [4, 0, 0, 0, 0, 0, 0, 0, ...new Array<number>(2000).fill(65), 0]))], /more than 1024/],
    ['nothing', [[]], /0 pieces/],
  ])('says that the file is damaged: %s', (_, parts, message) => {
    expect(failure(() => read(...parts))).toMatchObject({ code: 'FILE_FORMAT', message: expect.stringMatching(message) });
  });

  it('refuses what it does not implement by name', () => {
    const cases: [number[], RegExp][] = [[number(3, 2), /model_type BPE.*UNIGRAM/], [number(35, 1), /byte_fallback/], [number(24, 1), /whitespace_as_suffix/]];
    for (const [spec, message] of cases) {
      expect(failure(() => read(special, piece('a', -1, 1), field(2, spec), normalizer))).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringMatching(message) });
    }
  });

  it('finds every truncation of a real file', () => {
    for (let length = 0; length < spiece.length; length += 997) {
      expect(failure(() => readSentencePieceModel(spiece.subarray(0, length), 'spiece.model')).code).toBe('FILE_FORMAT');
    }
  });

  it('loads a vocabulary of 32,000 pieces in well under a second', () => {
    const pieces = Array.from({ length: 32_000 }, (_, i) => piece(`\u2581p${i.toString(36)}e`, -i / 1000, 1));
    const file = Uint8Array.from([special, ...pieces, trainer, normalizer].flat());
    const start = performance.now();
    const model = readSentencePieceModel(file, 'spiece.model');
    expect(performance.now() - start).toBeLessThan(1000);
    expect(model.encode('prse')).toEqual([3 + parseInt('rs', 36)]);
  });
});

describe('T5Tokenizer', () => {
  it('refuses a vocabulary without the pieces of T5', () => {
    const model = read(piece('<unk>', 0, 2), piece('a', -1, 1), trainer, normalizer);
    expect(failure(() => new T5Tokenizer(model, 100, '', 'spiece.model'))).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringMatching(/piece 0.*"<pad>"/) });
  });
});

describe('readTokenizerJson', () => {
  const changed = (change: (root: any) => void): string => {
    const root: unknown = JSON.parse(json.toString('utf8'));
    change(root);
    return JSON.stringify(root);
  };
  const pair = ['▁x', -5] as const;

  it('gives the model of spiece.model', () => {
    const model = readTokenizerJson(json.toString('utf8'), 'tokenizer.json');
    const reference = readSentencePieceModel(spiece, 'spiece.model');
    expect(model.pieces.slice(0, 1900)).toEqual(reference.pieces.map(({ bytes, ...rest }) => ({ bytes: new Uint8Array(bytes), ...rest })));
    for (const text of TEXTS) expect(model.normalize(text)).toBe(reference.normalize(text));
  });

  it('accepts the spellings of older files', () => {
    const expected = readTokenizerJson(json.toString('utf8'), '').encode(PROBE);
    const text = changed((root) => {
      root.normalizer = { type: 'Sequence', normalizers: [{ type: 'Strip', strip_left: false, strip_right: true }, root.normalizer,
        { type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' }] };
      root.pre_tokenizer = { type: 'Metaspace', replacement: '▁', add_prefix_space: true };
    });
    expect(readTokenizerJson(text, '').encode(PROBE)).toEqual(expected);
  });

  it.each<[string, string, (root: any) => void, RegExp]>([
    ['another model', 'UNSUPPORTED', (root) => { root.model.type = 'BPE'; }, /model: type "BPE".*"Unigram"/],
    ['byte fallback', 'UNSUPPORTED', (root) => { root.model.byte_fallback = true; }, /byte_fallback/],
    ['another normalizer', 'UNSUPPORTED', (root) => { root.normalizer = { type: 'NFKC' }; }, /"NFKC".*Precompiled/],
    ['another normalizer in a sequence', 'UNSUPPORTED', (root) => { root.normalizer = { type: 'Sequence', normalizers: [root.normalizer, { type: 'Lowercase' }] }; }, /"Lowercase"/],
    ['another replacement', 'UNSUPPORTED', (root) => { root.normalizer = { type: 'Sequence', normalizers: [root.normalizer, { type: 'Replace', pattern: { String: 'a' }, content: 'b' }] }; }, /"Replace"/],
    ['only a Strip', 'UNSUPPORTED', (root) => { root.normalizer = { type: 'Strip' }; }, /Precompiled/],
    ['no normalizer', 'FILE_FORMAT', (root) => { root.normalizer = null; }, /normalizer/],
    ['a charsmap that is no base64', 'FILE_FORMAT', (root) => { root.normalizer.precompiled_charsmap = '*'; }, /base64/],
    ['another pre_tokenizer', 'UNSUPPORTED', (root) => { root.pre_tokenizer = { type: 'ByteLevel' }; }, /"ByteLevel".*Metaspace/],
    ['no Metaspace', 'UNSUPPORTED', (root) => { root.pre_tokenizer = { type: 'WhitespaceSplit' }; }, /Metaspace/],
    ['no prefix', 'UNSUPPORTED', (root) => { root.pre_tokenizer.pretokenizers[1].prepend_scheme = 'never'; }, /prepend_scheme "never"/],
    ['no vocabulary', 'FILE_FORMAT', (root) => { delete root.model.vocab; }, /vocab/],
    ['a piece without score', 'FILE_FORMAT', (root) => { root.model.vocab[5] = ['x']; }, /vocab\[5\]/],
    ['unk_id outside', 'FILE_FORMAT', (root) => { root.model.unk_id = 2000; }, /unk_id/],
    ['no unk_id', 'FILE_FORMAT', (root) => { delete root.model.unk_id; }, /unk_id/],
    ['equal pieces', 'FILE_FORMAT', (root) => { root.model.vocab.push(pair, pair); }, /2000 and 2001/],
    ['an added token that the vocabulary contradicts', 'FILE_FORMAT', (root) => { root.added_tokens[0].content = '<PAD>'; }, /vocab\[0\].*<PAD>/],
    ['an added token that is not special', 'UNSUPPORTED', (root) => { root.added_tokens[0].special = false; }, /added_tokens\[0\].*special/],
  ])('refuses %s', (_, code, change, message) => {
    expect(failure(() => readTokenizerJson(changed(change), 'tokenizer.json'))).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('says where JSON ends too early', () => {
    expect(failure(() => readTokenizerJson(json.toString('utf8', 0, 5000), 'tokenizer.json'))).toMatchObject({
      code: 'FILE_FORMAT', message: expect.stringMatching(/tokenizer\.json.*line/),
    });
  });
});

/** mulberry32, a generator of 32-bit numbers. */
function generator(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/**
 * Damages `file` in many ways for two seconds: a tokenizer that works, or an IFError, nothing else. Most of a file is charsmap
 * and vocabulary, so half of the changes go to the places in `structure`.
 */
function fuzz(file: Buffer, structure: number[], load: (bytes: Buffer) => UnigramModel): { loaded: number; refused: number } {
  const random = generator(1);
  const result = { loaded: 0, refused: 0 };
  for (const end = performance.now() + 2000; performance.now() < end;) {
    let bytes = Buffer.from(file);
    for (let changes = 1 + random(4); changes > 0; changes--) {
      const at = random(2) ? structure[random(structure.length)]! + random(8) : random(bytes.length);
      if (at < bytes.length) bytes[at] = random(3) ? random(256) : bytes[at]! ^ (1 << random(8));
    }
    if (random(4) === 0) bytes = bytes.subarray(0, random(bytes.length));
    try {
      const tokenizer = new T5Tokenizer(load(bytes), 100, '', 'file');
      for (const text of TEXTS) {
        const ids = tokenizer.encode(text);
        if (!ids.every((id) => Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize)) throw new Error(`ids ${ids}`);
        tokenizer.encodePadded(text, 4);
      }
      result.loaded++;
    } catch (error) {
      if (!(error instanceof IFError)) throw error;
      result.refused++;
    }
  }
  return result;
}

describe('damaged files', () => {
  it('spiece.model', () => {
    const charsmap = spiece.length - 240_100; // the normalizer_spec, last in the file
    const result = fuzz(spiece, [0, 8, 16, 24, 100, 20_000, charsmap - 300, charsmap - 100, charsmap, charsmap + 50, charsmap + 100],
      (bytes) => readSentencePieceModel(bytes, 'spiece.model'));
    expect(result.loaded).toBeGreaterThan(5);
    expect(result.refused).toBeGreaterThan(5);
  });

  it('tokenizer.json', () => {
    const text = json.toString('latin1');
    const keys = ['"added_tokens"', '"normalizer"', '"precompiled_charsmap"', '"pre_tokenizer"', '"model"', '"unk_id"', '"vocab"', '"Metaspace"'];
    const result = fuzz(json, keys.map((key) => text.indexOf(key)), (bytes) => readTokenizerJson(bytes.toString('utf8'), 'tokenizer.json'));
    expect(result.loaded).toBeGreaterThan(5);
    expect(result.refused).toBeGreaterThan(5);
  });
});
