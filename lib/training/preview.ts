import path from 'node:path';
import { addon } from '../addon.js';
import type { Sample } from '../data/dataset.js';
import { DDPMScheduler } from '../diffusion/ddpm.js';
import { IFError } from '../errors.js';
import { toImages, writePng } from '../image.js';
import { T5Encoder } from '../models/t5-encoder.js';
import { UNet } from '../models/unet.js';
import { denoise } from '../pipelines/denoise.js';
import { sampleDefaults } from '../pipelines/sample-defaults.js';
import type { StageSettings } from '../pipelines/stage.js';
import { Tensor, type Images } from '../tensor.js';
import { encodeBatch, PROMPT_TOKENS, preparePrompt } from '../text/prompt-embeddings.js';
import type { PromptStore } from '../text/prompt-store.js';
import { lowResPictures } from './batch.js';
import type { TrainableModel } from './model.js';
import type { Replicas } from './replicas.js';
import type { RunConfig } from './run-config.js';

/** Pictures drawn together: bounds the memory of a preview. */
export const PREVIEW_BATCH = 4;

/** One picture of a preview. */
export interface PreviewItem {
  prompt: string;
  /** Stages II and III: the picture that is reduced and enlarged again. */
  picture: Sample | undefined;
}

/** Draws the same pictures with the model as it is at some step. */
export class Previews {
  private constructor(
    private readonly items: readonly PreviewItem[],
    private readonly config: RunConfig & { previews: Exclude<RunConfig['previews'], false> },
    private readonly model: TrainableModel,
    private readonly scheduler: DDPMScheduler,
    private readonly store: PromptStore | undefined,
    private readonly settings: StageSettings,
  ) {}

  /**
   * @param scheduler as the result of the run is sampled
   * @param store of the prompts' embeddings; undefined when the text encoder is trained
   * @throws IFError `INVALID_ARGUMENT` when the scheduler cannot do the steps
   */
  static async create(items: readonly PreviewItem[], config: RunConfig & { previews: Exclude<RunConfig['previews'], false> }, model: TrainableModel, scheduler: DDPMScheduler, store: PromptStore | undefined): Promise<Previews> {
    const defaults = await sampleDefaults({ upscales: model.noiser !== undefined, folder: model.folder });
    const { timesteps, guidance } = config.previews;
    scheduler.timesteps(timesteps);
    return new Previews(items, config, model, scheduler, store, { ...defaults, timesteps, ...(guidance === undefined ? {} : { guidance }) });
  }

  /**
   * Draws all pictures and writes them as one PNG grid, FOLDER/step-NNNNNN.png.
   * @returns the file
   * @throws IFError `CANCELLED`, `IO`
   */
  async draw(replicas: Replicas, step: number, folder: string, signal?: AbortSignal): Promise<string> {
    const { config, model } = this;
    const ema = config.ema !== false;
    const device = replicas.devices[0]!;
    const unet = UNet.fromHandle(await replicas.unet(config.dtype, ema), model.config, device);
    const generator = addon.generatorCreate(BigInt(config.previews.seed));
    const pictures: Images[] = [];
    try {
      const embed = await this.embedder(replicas, ema);
      for (let first = 0; first < this.items.length; first += PREVIEW_BATCH) {
        pictures.push(await this.drawBatch(this.items.slice(first, first + PREVIEW_BATCH), unet, generator, embed, device, signal));
      }
    } finally {
      addon.dispose(generator);
      unet.dispose();
      addon.releaseCached(device);
    }
    const file = path.join(folder, `step-${String(step).padStart(6, '0')}.png`);
    await writePng(file, grid(pictures), { prompts: JSON.stringify(this.items.map(({ prompt }) => prompt)), step: String(step), seed: String(config.previews.seed), Software: 'deepfloyd-if' });
    return file;
  }

  private async drawBatch(items: readonly PreviewItem[], unet: UNet, generator: ReturnType<typeof addon.generatorCreate>, embed: Embedder, device: string, signal?: AbortSignal): Promise<Images> {
    const { size, lowRes } = this.config;
    using text = await embed(items.map(({ prompt }) => prompt), device);
    const negativeText = this.settings.guidance > 1 ? await embed(items.map(() => ''), device) : undefined;
    try {
      const images = await denoise(unet, {
        scheduler: this.scheduler, noiser: this.model.noiser, text, negativeText, batch: items.length, height: size, width: size, generator, settings: this.settings, device,
        lowRes: lowRes && await this.reduced(items, lowRes), index: this.config.stage, signal,
      });
      if (!images) throw new IFError('DIVERGED', 'the preview is not finite (NaN or infinity): the weights have diverged; lower optimizer.lr, or use dtype f32');
      return images;
    } finally {
      negativeText?.dispose();
    }
  }

  private async reduced(items: readonly PreviewItem[], lowRes: NonNullable<RunConfig['lowRes']>): Promise<Images> {
    const small = await lowResPictures(items.map(({ picture }) => picture!), lowRes);
    return toImages(small.lowRes!, small.lowResHeight, small.lowResWidth);
  }

  /** Embeddings from the store, or by a copy of the encoder in training (for small models, so all at once). */
  private async embedder(replicas: Replicas, ema: boolean): Promise<Embedder> {
    const width = this.model.text.config.dModel;
    const pack = (embeddings: Float32Array[], device: string): Tensor => {
      const all = new Float32Array(embeddings.length * PROMPT_TOKENS * width);
      embeddings.forEach((embedding, i) => all.set(embedding, i * PROMPT_TOKENS * width));
      return Tensor.from(all, [embeddings.length, PROMPT_TOKENS, width], device);
    };
    const { store, model } = this;
    if (store) return async (prompts, device) => pack(await Promise.all(prompts.map((prompt) => store.embedding(prompt))), device);
    const { tokenizer, config } = model.text;
    const t5 = T5Encoder.fromHandle(await replicas.t5(this.config.dtype, ema), config);
    try {
      const texts = [...new Set(['', ...this.items.map(({ prompt }) => prompt)].map((prompt) => preparePrompt(prompt, tokenizer)))];
      const embeddings = new Map((await encodeBatch(texts, t5, tokenizer)).map((embedding, i) => [texts[i]!, embedding]));
      return async (prompts, device) => pack(prompts.map((prompt) => embeddings.get(preparePrompt(prompt, tokenizer))!), device);
    } finally {
      t5.dispose();
    }
  }
}

type Embedder = (prompts: readonly string[], device: string) => Promise<Tensor>;

const GAP = 2; // white pixels between the pictures

/** All pictures of the batches, row by row, about as many rows as columns. */
export function grid(batches: readonly Images[]): Images {
  const [, channels, height, width] = batches[0]!.shape;
  const plane = height * width;
  const all = batches.flatMap(({ data, shape: [count] }) => Array.from({ length: count }, (_, n) => data.subarray(n * channels * plane, (n + 1) * channels * plane)));
  const columns = Math.ceil(Math.sqrt(all.length));
  const rows = Math.ceil(all.length / columns);
  const fullWidth = columns * (width + GAP) - GAP;
  const fullHeight = rows * (height + GAP) - GAP;
  const data = new Float32Array(channels * fullHeight * fullWidth).fill(1);
  for (const [n, picture] of all.entries()) {
    const top = Math.floor(n / columns) * (height + GAP);
    const left = (n % columns) * (width + GAP);
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < height; y++) data.set(picture.subarray(c * plane + y * width, c * plane + (y + 1) * width), (c * fullHeight + top + y) * fullWidth + left);
    }
  }
  return { data, shape: [1, channels, fullHeight, fullWidth] };
}
