import { addon, type LoraProduct } from './addon.js';

/** Low-rank products that are added to the weights of one network when it is loaded: scale · up · down per layer. */
export interface LoraFactors {
  /** The safetensors file that the factors are in. */
  file: string;
  /** Names of the tensors in it: down (rank, in), up (out, rank). */
  modules: readonly { module: string; down: string; up: string; scale: number }[];
}

/** Reads the factors as float32, hands them to `use`, and frees them. Those that count nothing are left out. */
export async function withFactors<T>(factors: readonly LoraFactors[] | undefined, use: (products: LoraProduct[]) => Promise<T>): Promise<T> {
  const read: Awaited<ReturnType<typeof addon.safetensorsLoad>>[] = [];
  try {
    const products: LoraProduct[] = [];
    for (const { file, modules } of factors ?? []) {
      const counted = modules.filter(({ scale }) => scale !== 0);
      if (counted.length === 0) continue;
      const tensors = await addon.safetensorsLoad(file);
      read.push(tensors);
      for (const { module, down, up, scale } of counted) products.push({ module, down: tensors[down]!, up: tensors[up]!, scale });
    }
    return await use(products);
  } finally {
    for (const tensors of read) Object.values(tensors).forEach((tensor) => addon.dispose(tensor));
  }
}
