import type { MicroBatch, TrainingSample } from '../addon.js';
import type { Shape } from '../data/dataset.js';
import { lowResolution } from '../data/transforms.js';
import type { Objective } from '../diffusion/objective.js';
import { drawTimestep } from '../diffusion/timestep-sampler.js';
import { Purpose, type StatelessRandom } from '../stateless-random.js';
import { Tensor } from '../tensor.js';
import { PROMPT_TOKENS, preparePrompt, tokenIds, type TextEncoderFiles } from '../text/prompt-embeddings.js';
import type { PromptStore } from '../text/prompt-store.js';
import type { LoadedSample } from './loader.js';
import type { RunConfig } from './run-config.js';
import type { Stage1Samples } from './stage1-samples.js';

/** What a network gets of a batch of captions; exactly one of the two. */
interface TextInput {
  /** (B, T, encoder_hid_dim). The caller disposes of it. */
  text: Tensor | null;
  tokens: { ids: Int32Array; mask: Int32Array } | null;
}
/** Text of captions for a device. */
export type TextSource = (captions: readonly string[], device: string) => Promise<TextInput>;

/** Embeddings that were computed before training. */
export function storedText(store: PromptStore, width: number): TextSource {
  return async (captions, device) => {
    const size = PROMPT_TOKENS * width;
    const all = new Float32Array(captions.length * size);
    for (const [i, caption] of captions.entries()) all.set(await store.embedding(caption), i * size);
    return { text: Tensor.from(all, [captions.length, PROMPT_TOKENS, width], device), tokens: null };
  };
}

/** Token ids, for a text encoder that is trained as well. */
export function tokenText({ tokenizer, config }: TextEncoderFiles): TextSource {
  return async (captions) => ({ text: null, tokens: tokenIds(captions.map((caption) => preparePrompt(caption, tokenizer)), tokenizer, config.vocabSize) });
}

/** B pictures, one after another; null in stage I. */
export type LowResPictures = Pick<MicroBatch, 'lowRes' | 'lowResHeight' | 'lowResWidth'>;

/** The pixels of a picture, and its shape: the same for all of a batch. */
type Picture = Pick<LoadedSample, 'image' | 'width' | 'height'>;

/** The pictures of a batch, reduced. */
export async function lowResPictures(samples: readonly Picture[], lowRes: RunConfig['lowRes']): Promise<LowResPictures> {
  if (!lowRes) return { lowRes: null, lowResHeight: 0, lowResWidth: 0 };
  return packed(await Promise.all(samples.map((sample) => lowResolution(sample.image, sample, lowRes.factor, lowRes.filter))), samples[0]!, lowRes.factor);
}

function packed(pictures: readonly Uint8Array[], { width, height }: Shape, factor: number): LowResPictures {
  return { lowRes: joined(pictures), lowResHeight: height / factor, lowResWidth: width / factor };
}

/** Pictures of one shape, one after another. */
function joined(pictures: readonly Uint8Array[]): Uint8Array {
  const bytes = pictures[0]!.length;
  const all = new Uint8Array(pictures.length * bytes);
  pictures.forEach((picture, i) => all.set(picture, i * bytes));
  return all;
}

/** What the steps of a run draw, and how their batches are put together. */
export class BatchBuilder {
  constructor(
    private readonly config: RunConfig,
    private readonly objective: Objective,
    private readonly random: StatelessRandom,
    private readonly text: TextSource,
    /** Draws the low-resolution pictures of the training; without it they are the pictures, reduced. */
    private readonly stage1?: Pick<Stage1Samples, 'draw'>,
  ) {}

  /** The caption that a sample is trained with: its own, or the empty one. */
  caption({ index, caption }: Pick<LoadedSample, 'index' | 'caption'>): string {
    return this.random.uniform(Purpose.CaptionDropout, index) < this.config.captionDropout ? '' : caption;
  }

  /** Timestep, noise level and loss coefficients of a sample. */
  draw({ index, weight }: Pick<LoadedSample, 'index' | 'weight'>): TrainingSample {
    const { objective, random } = this;
    const timestep = drawTimestep(this.config.objective.timesteps, objective.numTrainTimesteps, random.uniform(Purpose.Timestep, index));
    // a level of its own, uniform over the integers (deep-floyd/IF, model/unet.py, SuperResUNetModel)
    const noiseLevel = objective.numNoiseLevels && Math.floor(random.uniform(Purpose.NoiseLevel, index) * objective.numNoiseLevels);
    return objective.sample({ index, timestep, noiseLevel, weight });
  }

  /**
   * A micro-batch of the training.
   * @param use is given the batch; its tensors live until it returns
   */
  async training<T>(samples: readonly LoadedSample[], device: string, use: (batch: MicroBatch) => Promise<T>): Promise<T> {
    const { objective, seed, batchSize } = this.config;
    return this.build(samples, samples.map((sample) => this.caption(sample)), samples.map((sample) => this.draw(sample)), device, {
      noise: objective.noise, seed: BigInt(seed), loss: objective.loss, huberDelta: objective.huberDelta, gradientScale: 1 / batchSize,
      ...(this.stage1 ? await this.drawnLowRes(samples, this.stage1) : {}),
    }, use);
  }

  private async drawnLowRes(samples: readonly LoadedSample[], stage1: Pick<Stage1Samples, 'draw'>): Promise<LowResPictures> {
    const pictures: Uint8Array[] = [];
    for (const sample of samples) pictures.push(await stage1.draw(sample));
    return packed(pictures, samples[0]!, this.config.lowRes!.factor);
  }

  /** A micro-batch with the captions and coefficients that are given. */
  async build<T>(
    samples: readonly Picture[], captions: readonly string[], coefficients: TrainingSample[], device: string,
    settings: Pick<MicroBatch, 'noise' | 'seed' | 'loss' | 'huberDelta' | 'gradientScale'> & Partial<LowResPictures>, use: (batch: MicroBatch) => Promise<T>,
  ): Promise<T> {
    const { width, height } = samples[0]!;
    const images = joined(samples.map(({ image }) => image));
    const lowRes = settings.lowRes === undefined ? await lowResPictures(samples, this.config.lowRes) : undefined;
    const { text, tokens } = await this.text(captions, device);
    try {
      return await use({
        images, height, width, lowRes: null, lowResHeight: 0, lowResWidth: 0, ...lowRes,
        text: text?.handle ?? null, ids: tokens?.ids ?? null, mask: tokens?.mask ?? null, samples: coefficients, ...settings,
      });
    } finally {
      text?.dispose();
    }
  }
}
