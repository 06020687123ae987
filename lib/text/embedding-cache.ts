import { createHash } from 'node:crypto';
import { mkdir, open, stat } from 'node:fs/promises';
import path from 'node:path';
import { addon } from '../addon.js';
import { ioError } from '../files.js';
import { Tensor } from '../tensor.js';
import { PROMPT_TOKENS, type EncodeOptions, type PromptEmbedding, type TextEncoderFiles } from './prompt-embeddings.js';

/** One safetensors file per text, named by its key, in the dtype that it was computed in. */
export class EmbeddingCache {
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
    for (const { file, modules } of encoder.lora ?? []) {
      hash.update(JSON.stringify(modules)).update(await fileFingerprint(file));
    }
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

  /** Whether there is a file of a whole embedding's size for the text; its content is not looked at. */
  async has(text: string): Promise<boolean> {
    const bytes = PROMPT_TOKENS * this.encoder.config.dModel * (this.options.dtype === 'bf16' ? 2 : 4);
    return ((await stat(this.fileOf(text)).catch(() => undefined))?.size ?? 0) > bytes;
  }

  /** @returns whether it was written; the first failure is a warning */
  async write(text: string, embedding: PromptEmbedding): Promise<boolean> {
    try {
      await mkdir(this.dir, { recursive: true });
      using tensor = Tensor.from(embedding, [PROMPT_TOKENS, this.encoder.config.dModel], 'cpu');
      await addon.safetensorsSave(this.fileOf(text), ['embedding'], [tensor.handle], this.options.dtype, [['text', text.slice(0, 1000)]]);
      return true;
    } catch (error) {
      if (this.warned) return false;
      this.warned = true;
      const reason = ioError('writing', this.dir, error);
      this.options.onWarning?.(`the prompt embedding was not cached: ${reason instanceof Error ? reason.message : String(reason)}`);
      return false;
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
