/// <reference lib="esnext.disposable" preserve="true" />
import { addon, withSignal, type TensorHandle } from './addon.js';
import { IFError } from './errors.js';

/** float32 pictures in [-1, 1], (N, C, H, W) row-major: the layout of files and of torch. */
export interface Images {
  data: Float32Array;
  shape: [number, number, number, number];
}

/** Picture n of a batch as a view, (1, C, H, W). */
export function imageAt(images: Images, n: number): Images {
  const [count, c, h, w] = images.shape;
  if (!(n >= 0 && n < count)) throw new IFError('INVALID_ARGUMENT', `images: index ${n} is outside of a batch of ${count}`);
  return { data: images.data.subarray(n * c * h * w, (n + 1) * c * h * w), shape: [1, c, h, w] };
}

/** A tensor of the native engine. `dispose()` (or `using`) frees it at once; the garbage collector is the safety net. */
export class Tensor {
  readonly handle: TensorHandle;
  constructor(handle: TensorHandle) {
    this.handle = handle;
  }

  /** Row-major values. @throws IFError `INVALID_ARGUMENT` when the number of values does not fit the shape. */
  static from(data: Float32Array, shape: number[], device: string): Tensor {
    return new Tensor(addon.tensorFromFloat32(data, shape, device));
  }

  /** Pictures (N, C, H, W) as the engine's (N, H, W, C). */
  static async fromImages(images: Images, device: string, signal?: AbortSignal): Promise<Tensor> {
    using nchw = Tensor.from(images.data, images.shape, device);
    return new Tensor(await withSignal(signal, (token) => addon.imageToTensor(nchw.handle, token)));
  }

  get shape(): number[] {
    return addon.tensorInfo(this.handle).shape;
  }

  /** The values in the tensor's own order. */
  toFloat32(signal?: AbortSignal): Promise<Float32Array> {
    return withSignal(signal, (token) => addon.tensorToFloat32(this.handle, token));
  }

  /** An (N, H, W, C) tensor as pictures (N, C, H, W). */
  async toImages(signal?: AbortSignal): Promise<Images> {
    const [n, h, w, c] = this.shape as [number, number, number, number];
    const data = await withSignal(signal, (token) => addon.tensorToImage(this.handle, token));
    return { data, shape: [n, c, h, w] };
  }

  dispose(): void {
    addon.dispose(this.handle);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
