// Reads the golden files. Small and strict about the layout, without the checks of the product's own reader.
// Format: 8 bytes little-endian header length, JSON header {name: {dtype, shape, data_offsets}}, then the data.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export interface GoldenTensor {
  shape: number[];
  /** As the file says: F32, F16, BF16, F64, I64, I32, U8. */
  dtype: string;
  /** F16 and BF16 are widened to float32 (exactly). */
  data: Float32Array | Float64Array | BigInt64Array | Int32Array | Uint8Array;
}

/** The absolute path of a file or folder under test/golden. */
export const golden = (...parts: string[]): string =>
  path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'golden', ...parts);

/** float16 bits → number (IEEE 754 binary16, subnormals and infinities included). */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

function widen(bytes: Uint8Array, dtype: string): GoldenTensor['data'] {
  const { buffer } = bytes; // a fresh copy, so offset 0 is aligned for every type
  switch (dtype) {
    case 'F32': return new Float32Array(buffer);
    case 'F64': return new Float64Array(buffer);
    case 'I64': return new BigInt64Array(buffer);
    case 'I32': return new Int32Array(buffer);
    case 'U8': return bytes;
    case 'F16': return Float32Array.from(new Uint16Array(buffer), halfToNumber);
    case 'BF16': return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits * 65536).buffer);
    default: throw new Error(`test reader: dtype ${dtype} is not handled`);
  }
}

/** Every tensor of a .safetensors file, by name. */
export function readSafetensors(file: string): Map<string, GoldenTensor> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as
    Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  delete header['__metadata__'];
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    tensors.set(name, { shape, dtype, data: widen(Uint8Array.from(bytes.subarray(start + from, start + to)), dtype) });
  }
  return tensors;
}

/** The float32 values of tensor `name`; throws when it is absent or of another type. */
export function floats(tensors: Map<string, GoldenTensor>, name: string): Float32Array {
  const data = tensors.get(name)?.data;
  if (!(data instanceof Float32Array)) throw new Error(`test reader: no float tensor "${name}"`);
  return data;
}
