/** Bytes per element of every type that a safetensors file or a torch archive can hold; names as in safetensors, in lower case. */
export const DTYPE_BYTES = {
  f64: 8, f32: 4, f16: 2, bf16: 2, i64: 8, i32: 4, i16: 2, i8: 1, u64: 8, u32: 4, u16: 2, u8: 1, bool: 1,
  f8_e5m2: 1, f8_e4m3: 1, f8_e8m0: 1, c64: 8,
} as const;

export type FileDType = keyof typeof DTYPE_BYTES;

/** The types that weights are converted between. */
export type WeightDType = 'f32' | 'bf16' | 'f16';
export const WEIGHT_DTYPES: readonly WeightDType[] = ['f32', 'bf16', 'f16'];

export function isWeightDType(dtype: FileDType): dtype is WeightDType {
  return (WEIGHT_DTYPES as readonly string[]).includes(dtype);
}

/** Name, type and shape of a stored tensor. */
export interface TensorSpec {
  name: string;
  dtype: FileDType;
  shape: readonly number[];
}

/** Elements of a shape; 1 for a scalar. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Bytes of a dense tensor. */
export function tensorBytes(spec: Pick<TensorSpec, 'dtype' | 'shape'>): number {
  return elements(spec.shape) * DTYPE_BYTES[spec.dtype];
}

/** Bytes of all tensors, dense. */
export function totalBytes(specs: Iterable<Pick<TensorSpec, 'dtype' | 'shape'>>): number {
  let sum = 0;
  for (const spec of specs) sum += tensorBytes(spec);
  return sum;
}

/** `(2, 3)`, for messages. */
export function shapeText(shape: readonly number[]): string {
  return `(${shape.join(', ')})`;
}
