import { createHash } from 'node:crypto';
import { mkdir, open, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { addon } from '../addon.js';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { T5Encoder, type T5LoadOptions } from '../models/t5-encoder.js';
import type { T5Config } from '../models/t5-config.js';
import { Tensor } from '../tensor.js';
import { captionWarning, cleanCaption } from './clean-caption.js';
import { T5Tokenizer } from './t5-tokenizer.js';

/** Tokens per prompt: IF was trained on 77, padding included, and attends to all of them (features.md 1.1). */
export const PROMPT_TOKENS = 77;

// Prompts that go through the encoder together: bounds the activations (XXL: about 50 MB per prompt in float32).
const ENCODER_BATCH = 8;

/** (PROMPT_TOKENS, dModel) float32, row-major. */
export type PromptEmbedding = Float32Array;

export interface TextEncoderFiles {
  config: T5Config;
  /** safetensors files of the encoder. */
  files: string[];
  tokenizer: T5Tokenizer;
}

export interface EncodeOptions extends Pick<T5LoadOptions, 'dtype' | 'int8Weights'> {
  device: string;
  /** Folder of the cache; null turns it off. */
  cacheDir: string | null;
  onWarning?: (message: string) => void;
  /** Loading of the encoder; not called when every prompt was in the cache. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** IF_CACHE_DIR, else deepfloyd-if under XDG_CACHE_HOME or ~/.cache. */
export function defaultCacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'] || path.join(homedir(), '.cache');
  return process.env['IF_CACHE_DIR'] || path.join(base, 'deepfloyd-if');
}

/**
 * Encodes prompts: caption cleaning, 77 tokens, T5. Embeddings are kept on disk under a key of model, tokenizer, dtype,
 * int8 weights and text; the encoder is loaded only when one is missing, and freed afterwards.
 * @returns one embedding per prompt, in order; equal prompts share one array
 * @throws IFError of the tokenizer's and encoder's loading; a cache that cannot be written is a warning
 */
export async function encodePrompts(prompts: string[], encoder: TextEncoderFiles, options: EncodeOptions): Promise<PromptEmbedding[]> {
  const texts = prompts.map((prompt) => prepare(prompt, encoder.tokenizer, options.onWarning));
  const done = new Map<string, PromptEmbedding>();
  const cache = options.cacheDir === null ? null : await EmbeddingCache.open(options.cacheDir, encoder, options);
  for (const text of new Set(texts)) {
    const hit = await cache?.read(text);
    if (hit) done.set(text, hit);
  }
  const missing = [...new Set(texts)].filter((text) => !done.has(text));
  if (missing.length > 0) {
    const t5 = await T5Encoder.load(encoder.config, encoder.files, options);
    try {
      for (let first = 0; first < missing.length; first += ENCODER_BATCH) {
        const batch = missing.slice(first, first + ENCODER_BATCH);
        for (const [i, embedding] of (await encodeBatch(batch, t5, encoder.tokenizer, options.signal)).entries()) {
          done.set(batch[i]!, embedding);
          await cache?.write(batch[i]!, embedding);
        }
      }
    } finally {
      t5.dispose();
      addon.releaseCached(options.device);
    }
  }
  return texts.map((text) => done.get(text)!);
}

/** Cleans a prompt and warns of what is lost. */
function prepare(prompt: string, tokenizer: T5Tokenizer, onWarning?: (message: string) => void): string {
  const text = cleanCaption(prompt);
  const emptied = captionWarning(prompt, text);
  if (emptied) onWarning?.(emptied);
  const { removed } = tokenizer.encodePadded(text, PROMPT_TOKENS);
  if (removed) {
    const shown = removed.length > 200 ? `${removed.slice(0, 200)}…` : removed;
    onWarning?.(`the prompt is longer than ${PROMPT_TOKENS} tokens; this part was cut off: "${shown}"`);
  }
  return text;
}

async function encodeBatch(texts: string[], t5: T5Encoder, tokenizer: T5Tokenizer, signal?: AbortSignal): Promise<PromptEmbedding[]> {
  const ids = new Int32Array(texts.length * PROMPT_TOKENS);
  const mask = new Int32Array(ids.length);
  for (const [i, text] of texts.entries()) {
    const encoded = tokenizer.encodePadded(text, PROMPT_TOKENS);
    ids.set(encoded.ids, i * PROMPT_TOKENS);
    mask.set(encoded.mask, i * PROMPT_TOKENS);
  }
  const highest = ids.reduce((a, b) => Math.max(a, b), 0);
  if (highest >= t5.config.vocabSize) {
    throw new IFError('INVALID_ARGUMENT', `tokenizer: it gives token id ${highest}, but the text encoder's vocab_size is ${t5.config.vocabSize}; use the tokenizer that belongs to the encoder`);
  }
  using hidden = await t5.forward(ids, mask, texts.length, signal);
  const values = await hidden.toFloat32(signal);
  const size = PROMPT_TOKENS * t5.config.dModel;
  return texts.map((_, i) => values.slice(i * size, (i + 1) * size));
}

/** One safetensors file per text, named by its key, in the dtype that it was computed in. */
class EmbeddingCache {
  private warned = false;
  private constructor(
    private readonly dir: string,
    private readonly modelKey: string,
    private readonly encoder: TextEncoderFiles,
    private readonly options: EncodeOptions,
  ) {}

  static async open(dir: string, encoder: TextEncoderFiles, options: EncodeOptions): Promise<EmbeddingCache> {
    const hash = createHash('sha256').update(JSON.stringify([1, encoder.config, encoder.tokenizer.fingerprint, options.int8Weights ? `int8 in ${options.dtype}` : options.dtype, PROMPT_TOKENS]));
    for (const file of encoder.files) hash.update(await fileFingerprint(file));
    return new EmbeddingCache(dir, hash.digest('hex'), encoder, options);
  }

  private fileOf(text: string): string {
    const key = createHash('sha256').update(this.modelKey).update('\0').update(text).digest('hex');
    return path.join(this.dir, `${key}.safetensors`);
  }

  /** undefined when the text is not there, or its file cannot be used (it is then computed and written again). */
  async read(text: string): Promise<PromptEmbedding | undefined> {
    const file = this.fileOf(text);
    const width = this.encoder.config.dModel;
    const found = await stat(file).catch(() => undefined);
    if (!found || found.size > PROMPT_TOKENS * width * 4 + 65536) return undefined; // values and a header
    try {
      const tensors = await addon.safetensorsLoad(file);
      const handle = tensors['embedding'];
      if (!handle) return undefined;
      using tensor = new Tensor(handle);
      if (String(tensor.shape) !== String([PROMPT_TOKENS, width]) || !(await addon.allFinite(handle))) return undefined;
      return await tensor.toFloat32();
    } catch {
      return undefined;
    }
  }

  async write(text: string, embedding: PromptEmbedding): Promise<void> {
    try {
      await mkdir(this.dir, { recursive: true });
      using tensor = Tensor.from(embedding, [PROMPT_TOKENS, this.encoder.config.dModel], 'cpu');
      await addon.safetensorsSave(this.fileOf(text), ['embedding'], [tensor.handle], this.options.dtype, [['text', text.slice(0, 1000)]]);
    } catch (error) {
      if (this.warned) return;
      this.warned = true;
      const reason = ioError('writing', this.dir, error);
      this.options.onWarning?.(`the prompt embedding was not cached: ${reason instanceof Error ? reason.message : String(reason)}`);
    }
  }
}

/** Size, and 4 KiB at each of up to 256 places: tells fine-tuned encoders apart without reading ten gigabytes. */
async function fileFingerprint(file: string): Promise<Buffer> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const hash = createHash('sha256').update(String(size));
    const block = Buffer.alloc(4096);
    const places = Math.min(256, Math.ceil(size / block.length));
    for (let i = 0; i < places; i++) {
      const at = places === 1 ? 0 : Math.floor((i * Math.max(0, size - block.length)) / (places - 1));
      const { bytesRead } = await handle.read(block, 0, block.length, at);
      hash.update(block.subarray(0, bytesRead));
    }
    return hash.digest();
  } finally {
    await handle.close();
  }
}
