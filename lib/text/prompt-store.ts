import { IFError } from '../errors.js';
import { EmbeddingCache } from './embedding-cache.js';
import { encodeTexts, PROMPT_TOKENS, preparePrompt, type EncodeOptions, type PromptEmbedding, type TextEncoderFiles } from './prompt-embeddings.js';

export interface PromptStoreOptions extends EncodeOptions {
  /** Bytes of embeddings kept in memory; the others are read from the cache when they are needed. Default: 1 GiB. */
  memoryBytes?: number;
  /** Captions encoded so far, and in all that the cache has not. */
  onEncoded?: ((done: number, total: number) => void) | undefined;
}

const WARNINGS_SHOWN = 3;

/** Embeddings of all the captions of a run: encoded once, then read one by one in any order. */
export class PromptStore {
  /** In the order of their last use. */
  private readonly resident = new Map<string, PromptEmbedding>();

  private constructor(
    private readonly encoder: TextEncoderFiles,
    private readonly cache: EmbeddingCache | null,
    private readonly capacity: number,
  ) {}

  /**
   * Encodes what the cache has not, loading the encoder for that and freeing it.
   * @param captions repetitions allowed; the empty one is always added
   * @throws IFError as encodePrompts; `OUT_OF_MEMORY` when there are more than fit in memory and no cache can hold them
   */
  static async open(captions: AsyncIterable<string>, encoder: TextEncoderFiles, options: PromptStoreOptions): Promise<PromptStore> {
    const texts = await distinctTexts(captions, encoder, options);
    const cache = options.cacheDir === null ? null : await EmbeddingCache.open(options.cacheDir, encoder, options);
    const bytes = PROMPT_TOKENS * encoder.config.dModel * Float32Array.BYTES_PER_ELEMENT;
    const capacity = Math.max(1, Math.floor((options.memoryBytes ?? 2 ** 30) / bytes));
    const store = new PromptStore(encoder, cache, capacity);
    const fits = texts.length <= capacity;
    if (!fits && !cache) throw tooMany(texts.length, capacity, bytes);
    const missing: string[] = [];
    for (const text of texts) {
      const hit = fits ? await cache?.read(text) : undefined;
      if (hit) store.keep(text, hit);
      else if (fits || !(await cache!.has(text))) missing.push(text);
    }
    let encoded = 0;
    await encodeTexts(missing, encoder, options, async (text, embedding) => {
      const written = await cache?.write(text, embedding);
      if (!fits && !written) throw tooMany(texts.length, capacity, bytes);
      store.keep(text, embedding);
      options.onEncoded?.(++encoded, missing.length);
    });
    return store;
  }

  /**
   * The embedding of a caption that `open` has seen, or of the empty one.
   * @throws IFError `NOT_FOUND` when it is not in the cache (any more)
   */
  async embedding(caption: string): Promise<PromptEmbedding> {
    const text = preparePrompt(caption, this.encoder.tokenizer);
    const found = this.resident.get(text) ?? await this.cache?.read(text);
    if (!found) throw new IFError('NOT_FOUND', `prompt embeddings: none for the caption "${caption.slice(0, 80)}": its file was removed or damaged, or the data set gave a caption that it had not announced; start again to encode it`);
    this.keep(text, found);
    return found;
  }

  private keep(text: string, embedding: PromptEmbedding): void {
    this.resident.delete(text);
    this.resident.set(text, embedding);
    if (this.resident.size > this.capacity) this.resident.delete(this.resident.keys().next().value!);
  }
}

/** Cleaned captions, each once. The first few of those that lose something are named, the others counted. */
async function distinctTexts(captions: AsyncIterable<string>, encoder: TextEncoderFiles, options: EncodeOptions): Promise<string[]> {
  let warnings = 0;
  const onWarning = (message: string): void => {
    if (++warnings <= WARNINGS_SHOWN) options.onWarning?.(message);
  };
  const texts = new Set([preparePrompt('', encoder.tokenizer)]);
  const seen = new Set<string>();
  for await (const caption of captions) {
    if (seen.has(caption)) continue;
    seen.add(caption);
    texts.add(preparePrompt(caption, encoder.tokenizer, onWarning));
  }
  if (warnings > WARNINGS_SHOWN) options.onWarning?.(`${warnings - WARNINGS_SHOWN} more captions lose a part in the same way`);
  return [...texts];
}

function tooMany(texts: number, capacity: number, bytes: number): IFError {
  return new IFError('OUT_OF_MEMORY', `prompt embeddings: ${texts} captions of ${(bytes / 1e6).toFixed(1)} MB each, ${capacity} fit in memory, and there is no cache folder that could be written: set IF_CACHE_DIR to one`);
}
