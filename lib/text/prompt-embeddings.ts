import { homedir } from 'node:os';
import path from 'node:path';
import { addon } from '../addon.js';
import { IFError } from '../errors.js';
import type { LoraFactors } from '../lora-factors.js';
import { T5Encoder, type T5LoadOptions } from '../models/t5-encoder.js';
import type { T5Config } from '../models/t5-config.js';
import { captionWarning, cleanCaption } from './clean-caption.js';
import { EmbeddingCache } from './embedding-cache.js';
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
  /** Products that are added to its weights. */
  lora?: readonly LoraFactors[];
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
  const texts = prompts.map((prompt) => preparePrompt(prompt, encoder.tokenizer, options.onWarning));
  const done = new Map<string, PromptEmbedding>();
  const cache = options.cacheDir === null ? null : await EmbeddingCache.open(options.cacheDir, encoder, options);
  for (const text of new Set(texts)) {
    const hit = await cache?.read(text);
    if (hit) done.set(text, hit);
  }
  const missing = [...new Set(texts)].filter((text) => !done.has(text));
  await encodeTexts(missing, encoder, options, async (text, embedding) => {
    done.set(text, embedding);
    await cache?.write(text, embedding);
  });
  return texts.map((text) => done.get(text)!);
}

/**
 * Loads the encoder, encodes prepared texts, each once, and frees it. Nothing is loaded for an empty list.
 * @param onEmbedding is waited for, text by text
 */
export async function encodeTexts(texts: readonly string[], encoder: TextEncoderFiles, options: EncodeOptions, onEmbedding: (text: string, embedding: PromptEmbedding) => Promise<void>): Promise<void> {
  if (texts.length === 0) return;
  const t5 = await T5Encoder.load(encoder.config, encoder.files, { ...options, ...(encoder.lora ? { lora: encoder.lora } : {}) });
  try {
    for (let first = 0; first < texts.length; first += ENCODER_BATCH) {
      const batch = texts.slice(first, first + ENCODER_BATCH);
      for (const [i, embedding] of (await encodeBatch(batch, t5, encoder.tokenizer, options.signal)).entries()) await onEmbedding(batch[i]!, embedding);
    }
  } finally {
    t5.dispose();
    addon.releaseCached(options.device);
  }
}

/** Cleans a prompt and warns of what is lost. */
export function preparePrompt(prompt: string, tokenizer: T5Tokenizer, onWarning?: (message: string) => void): string {
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

/**
 * Token ids and mask of prepared texts, one after another, PROMPT_TOKENS each.
 * @throws IFError `INVALID_ARGUMENT` when an id is beyond the encoder's vocabulary
 */
export function tokenIds(texts: readonly string[], tokenizer: T5Tokenizer, vocabSize: number): { ids: Int32Array; mask: Int32Array } {
  const ids = new Int32Array(texts.length * PROMPT_TOKENS);
  const mask = new Int32Array(ids.length);
  for (const [i, text] of texts.entries()) {
    const encoded = tokenizer.encodePadded(text, PROMPT_TOKENS);
    ids.set(encoded.ids, i * PROMPT_TOKENS);
    mask.set(encoded.mask, i * PROMPT_TOKENS);
  }
  const highest = ids.reduce((a, b) => Math.max(a, b), 0);
  if (highest >= vocabSize) {
    throw new IFError('INVALID_ARGUMENT', `tokenizer: it gives token id ${highest}, but the text encoder's vocab_size is ${vocabSize}; use the tokenizer that belongs to the encoder`);
  }
  return { ids, mask };
}

/** Embeddings of prepared texts by an encoder in memory. */
export async function encodeBatch(texts: readonly string[], t5: T5Encoder, tokenizer: T5Tokenizer, signal?: AbortSignal): Promise<PromptEmbedding[]> {
  const { ids, mask } = tokenIds(texts, tokenizer, t5.config.vocabSize);
  using hidden = await t5.forward(ids, mask, texts.length, signal);
  const values = await hidden.toFloat32(signal);
  const size = PROMPT_TOKENS * t5.config.dModel;
  return texts.map((_, i) => values.slice(i * size, (i + 1) * size));
}
