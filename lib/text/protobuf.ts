import { IFError } from '../errors.js';

/** One field of a protobuf message; the wire type decides which of the two is there. */
export interface ProtobufField {
  number: number;
  /** Wire type 0: a varint. Above 2^53 the low bits are lost; no field that is read here is that large. */
  varint?: number;
  /** Wire types 2 (length-delimited), 5 (four bytes) and 1 (eight bytes): a view into the message. */
  bytes?: Uint8Array;
}

/**
 * Splits a protobuf message (protobuf.dev, "Encoding") into its fields, in the order of the file.
 * @param where how messages call the message, e.g. `spiece.model: piece 7`
 * @throws IFError `FILE_FORMAT` when it ends within a field or a field has no valid tag
 */
export function* protobufFields(message: Uint8Array, where: string): Generator<ProtobufField> {
  let offset = 0;
  const fail = (what: string): never => {
    throw new IFError('FILE_FORMAT', `${where}: ${what}: the file is cut off or damaged, or not a SentencePiece model`);
  };
  const varint = (): number => {
    let value = 0;
    for (let i = 0, scale = 1; i < 10; i++, scale *= 128) { // 64 bits are at most 10 groups of 7
      const byte = message[offset++];
      if (byte === undefined) fail(`ends within a number at byte ${message.length}`);
      value += (byte! & 127) * scale;
      if (byte! < 128) return value;
    }
    return fail(`a number of more than 10 bytes at byte ${offset - 10}`);
  };
  const take = (length: number, number: number): Uint8Array => {
    if (length > message.length - offset) {
      fail(`field ${number} at byte ${offset} is ${length} bytes long, expected at most the ${message.length - offset} that are left`);
    }
    offset += length;
    return message.subarray(offset - length, offset);
  };
  while (offset < message.length) {
    const start = offset;
    const key = varint();
    const number = Math.floor(key / 8);
    const wireType = key % 8;
    if (number < 1 || number >= 2 ** 29) fail(`field number ${number} at byte ${start}, expected 1 to ${2 ** 29 - 1}`);
    if (wireType === 0) yield { number, varint: varint() };
    else if (wireType === 2) yield { number, bytes: take(varint(), number) };
    else if (wireType === 5) yield { number, bytes: take(4, number) };
    else if (wireType === 1) yield { number, bytes: take(8, number) };
    else fail(`wire type ${wireType} at byte ${start}, expected 0, 1, 2 or 5`);
  }
}
