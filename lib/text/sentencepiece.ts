import { IFError } from '../errors.js';
import { Charsmap } from './charsmap.js';
import { protobufFields, type ProtobufField } from './protobuf.js';
import { PieceType, UnigramModel, type NormalizerSpec, type Piece } from './unigram.js';

// Field numbers: google/sentencepiece src/sentencepiece_model.proto.
const MODEL = { pieces: 1, trainerSpec: 2, normalizerSpec: 3 };
const PIECE = { piece: 1, score: 2, type: 3 };
const TRAINER = { modelType: 3, treatWhitespaceAsSuffix: 24, byteFallback: 35 };
const NORMALIZER = { precompiledCharsmap: 2, addDummyPrefix: 3, removeExtraWhitespaces: 4, escapeWhitespaces: 5 };
const MODEL_TYPES = new Map([[1, 'UNIGRAM'], [2, 'BPE'], [3, 'WORD'], [4, 'CHAR']]);

function bytesOf(field: ProtobufField, where: string): Uint8Array {
  if (!field.bytes) throw new IFError('FILE_FORMAT', `${where}: field ${field.number}: expected bytes, got a number: the file is damaged`);
  return field.bytes;
}

function varintOf(field: ProtobufField, where: string): number {
  if (field.varint === undefined) throw new IFError('FILE_FORMAT', `${where}: field ${field.number}: expected a number, got bytes: the file is damaged`);
  return field.varint;
}

function readPiece(message: Uint8Array, where: string): Piece {
  let bytes: Uint8Array = new Uint8Array();
  let score = 0;
  let type: number = PieceType.normal;
  for (const field of protobufFields(message, where)) {
    if (field.number === PIECE.piece) bytes = bytesOf(field, where);
    else if (field.number === PIECE.score) {
      const value = bytesOf(field, where);
      if (value.length !== 4) throw new IFError('FILE_FORMAT', `${where}: score: expected 4 bytes, got ${value.length}: the file is damaged`);
      score = new DataView(value.buffer, value.byteOffset, 4).getFloat32(0, true);
    } else if (field.number === PIECE.type) type = varintOf(field, where);
  }
  if (!(type >= PieceType.normal && type <= PieceType.byte)) {
    throw new IFError('FILE_FORMAT', `${where}: type ${type}, expected 1 to 6: the file is damaged`);
  }
  return { bytes, score, type: type as PieceType };
}

function checkTrainer(message: Uint8Array, where: string): void {
  for (const field of protobufFields(message, `${where}: trainer_spec`)) {
    const unsupported = (name: string, value: unknown, supported: string): never => {
      throw new IFError('UNSUPPORTED', `${where}: trainer_spec.${name} ${value} is not supported (supported: ${supported})`);
    };
    if (field.number === TRAINER.modelType) {
      const type = varintOf(field, where);
      if (type !== 1) unsupported('model_type', MODEL_TYPES.get(type) ?? type, 'UNIGRAM, the kind that T5 has');
    } else if (field.number === TRAINER.byteFallback && varintOf(field, where) !== 0) unsupported('byte_fallback', true, 'false');
    else if (field.number === TRAINER.treatWhitespaceAsSuffix && varintOf(field, where) !== 0) {
      unsupported('treat_whitespace_as_suffix', true, 'false');
    }
  }
}

function readNormalizer(message: Uint8Array, where: string): NormalizerSpec {
  const spec: NormalizerSpec = { charsmap: undefined, addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true };
  for (const field of protobufFields(message, `${where}: normalizer_spec`)) {
    if (field.number === NORMALIZER.precompiledCharsmap) {
      const blob = bytesOf(field, where);
      spec.charsmap = blob.length > 0 ? new Charsmap(blob, where) : undefined;
    } else if (field.number === NORMALIZER.addDummyPrefix) spec.addDummyPrefix = varintOf(field, where) !== 0;
    else if (field.number === NORMALIZER.removeExtraWhitespaces) spec.removeExtraWhitespaces = varintOf(field, where) !== 0;
    else if (field.number === NORMALIZER.escapeWhitespaces) spec.escapeWhitespaces = varintOf(field, where) !== 0;
  }
  return spec;
}

/**
 * Reads a SentencePiece unigram model, the `spiece.model` of a T5 tokenizer.
 * @param file the bytes of the file
 * @param where how messages call the file, e.g. its path
 * @throws IFError `FILE_FORMAT`, saying where and what, when the file is cut off or damaged or something else;
 *   `UNSUPPORTED` for other model types than unigram, for byte_fallback and treat_whitespace_as_suffix
 */
export function readSentencePieceModel(file: Uint8Array, where: string): UnigramModel {
  const pieces: Piece[] = [];
  let trainer: Uint8Array | undefined;
  let normalizer: Uint8Array | undefined;
  for (const field of protobufFields(file, where)) {
    if (field.number === MODEL.pieces) pieces.push(readPiece(bytesOf(field, where), `${where}: piece ${pieces.length}`));
    else if (field.number === MODEL.trainerSpec) trainer = bytesOf(field, where);
    else if (field.number === MODEL.normalizerSpec) normalizer = bytesOf(field, where);
  }
  // Every trainer writes both, behind the pieces: without them the end of the file is missing.
  if (!trainer || !normalizer) {
    throw new IFError('FILE_FORMAT', `${where}: has ${pieces.length} pieces but no ${trainer ? 'normalizer_spec' : 'trainer_spec'}: `
      + 'the file is cut off, or not a SentencePiece model');
  }
  checkTrainer(trainer, where);
  return new UnigramModel(pieces, readNormalizer(normalizer, where), where);
}
