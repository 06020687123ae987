import { open, type FileHandle } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ioError } from '../files.js';

/** One record of an event file. Every event carries its wall time in seconds since 1970. */
export type TensorBoardEvent =
  | { type: 'version' }
  /** The run goes on after `step`: events of later steps in older files are void. */
  | { type: 'start'; step: number }
  | { type: 'scalars'; step: number; scalars: Readonly<Record<string, number>> };

// Castagnoli's polynomial, bits reversed
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C, rotated and shifted as TFRecord files hold it (tensorflow/core/lib/hash/crc32c.h). */
function maskedCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  crc = ~crc >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Length, its checksum, data, its checksum; little-endian. */
function record(data: Uint8Array): Buffer {
  const out = Buffer.alloc(data.length + 16);
  out.writeBigUInt64LE(BigInt(data.length), 0);
  out.writeUInt32LE(maskedCrc(out.subarray(0, 8)), 8);
  out.set(data, 12);
  out.writeUInt32LE(maskedCrc(data), 12 + data.length);
  return out;
}

// ---- protobuf messages (protobuf.dev, "Encoding"); field numbers of tensorboard/compat/proto/{event,summary}.proto

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return Buffer.from([...bytes, rest]);
}
const tag = (field: number, wireType: number): Buffer => varint(field * 8 + wireType);
/** Zero is the default, which is not written. */
const integerField = (field: number, value: number): Buffer => (value === 0 ? Buffer.alloc(0) : Buffer.concat([tag(field, 0), varint(value)]));
const bytesField = (field: number, value: Uint8Array): Buffer => Buffer.concat([tag(field, 2), varint(value.length), value]);
function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([tag(field, 1), bytes]);
}
function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(Math.fround(value));
  return Buffer.concat([tag(field, 5), bytes]);
}

const SESSION_START = 1; // SessionLog.START

/** The bytes of one event in an event file. */
export function encodeEvent(event: TensorBoardEvent, wallTime: number): Buffer {
  const parts = [doubleField(1, wallTime)];
  if (event.type !== 'version') parts.push(integerField(2, event.step));
  switch (event.type) {
    case 'version': parts.push(bytesField(3, Buffer.from('brain.Event:2'))); break;
    case 'start': parts.push(bytesField(7, integerField(1, SESSION_START))); break;
    case 'scalars': {
      const values = Object.entries(event.scalars).map(([name, value]) => bytesField(1, Buffer.concat([bytesField(1, Buffer.from(name)), floatField(2, value)])));
      parts.push(bytesField(5, Buffer.concat(values)));
    }
  }
  return record(Buffer.concat(parts));
}

/** An event file that TensorBoard reads while it grows. */
export class TensorBoardWriter {
  private constructor(private readonly handle: FileHandle, private readonly file: string) {}

  /**
   * Starts a new file in `dir`.
   * @param step the last step that is done, when a run goes on
   * @throws IFError `IO`
   */
  static async create(dir: string, step: number): Promise<TensorBoardWriter> {
    const file = path.join(dir, `events.out.tfevents.${String(Math.floor(Date.now() / 1000)).padStart(10, '0')}.${os.hostname()}.${process.pid}.0`);
    try {
      const writer = new TensorBoardWriter(await open(file, 'a'), file);
      await writer.write({ type: 'version' });
      if (step > 0) await writer.write({ type: 'start', step });
      return writer;
    } catch (error) {
      throw ioError('writing', file, error);
    }
  }

  /** @throws IFError `IO` */
  async write(event: TensorBoardEvent): Promise<void> {
    try {
      await this.handle.appendFile(encodeEvent(event, Date.now() / 1000));
    } catch (error) {
      throw ioError('writing', this.file, error);
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}
