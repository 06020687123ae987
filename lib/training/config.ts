import type { DType, Precision, T5DType } from '../addon.js';
import type { DataConfig } from '../data/open.js';

/** A training run. Everything but `model`, `data`, and `steps` or `epochs` has a default. Paths are relative to where the program runs. */
export interface TrainingConfig {
  model: {
    /** Pipeline folder (model_index.json) of the stage to train, or `if-emoji`, the model that comes with the package. */
    folder: string;
    /** Weights of this variant instead of the plain files. */
    variant?: 'fp16' | 'bf16';
    /** Pipeline folder with text_encoder and tokenizer. Default: `folder`. */
    textFolder?: string;
    /** Random parameters; configurations and tokenizer are those of the folder. Default: false. */
    fromScratch?: boolean;
    /** With fromScratch: fields of unet/config.json instead of the folder's. */
    unet?: Record<string, unknown>;
    /** With fromScratch and trainTextEncoder: fields of text_encoder/config.json instead of the folder's. */
    textEncoder?: Record<string, unknown>;
    /** Train T5 as well: for small models. Default: false, every caption is encoded once before training. */
    trainTextEncoder?: boolean;
    /** Of the text encoder that is not trained. Default: `dtype`. */
    textDtype?: T5DType;
  };
  /** The stage that the folder is meant to be: refused when it is another. */
  stage?: 1 | 2 | 3;
  data: DataConfig;
  /** Side of the pictures in pixels. Default: what the model was trained on (64, 256, 1024). */
  size?: number;
  /**
   * Pictures keep their shape, roughly: each is cut to the nearest of a set of shapes of about size² pixels instead of to the
   * square, and the pictures of a step have one shape. Not with emojis, which are square, nor with priorPreservation.
   */
  buckets?: {
    /** Longer side ÷ shorter side of the shapes, at most. Default: 2. */
    maxRatio?: number;
  };
  /** Pictures of the class beside those of the subject (DreamBooth): every second picture of the run is one of `data`. */
  priorPreservation?: {
    /** Pictures of the class: a `folder` with a `caption`, where `generate` is to fill it. */
    data: DataConfig;
    /** Draws what is missing in that folder before training starts, with the model as it is then and the caption as the prompt. */
    generate?: {
      /** Pictures that the folder has in the end. Default: 200. */
      pictures?: number;
      /** Stage II: pipeline folder of the stage I whose pictures it enlarges, or `if-emoji`. */
      stage1?: { folder: string; variant?: 'fp16' | 'bf16' };
      /** Sampler steps of each stage, or a schedule's name. Default: what its folder says, else 100 and 50. */
      timesteps?: number | string;
    };
    /** Factor of their loss. Default: 1. */
    weight?: number;
  };
  /** Stages II and III: where the low-resolution picture comes from. */
  lowRes?: {
    /** The picture itself, reduced. Default: `bicubic`. */
    filter?: 'box' | 'bilinear' | 'bicubic' | 'lanczos';
    /** By how much; divides `size`. Default: 4. */
    factor?: number;
    /**
     * The reduced picture, noised and drawn anew by a stage I, so that the stage learns what it will be given. Every sample
     * is drawn when it is trained on, which takes that many steps of stage I. Validation and previews use the reduced picture.
     */
    stage1?: {
      /** Pipeline folder of the stage I, or `if-emoji`. */
      folder: string;
      variant?: 'fp16' | 'bf16';
      /** Which part of the sampler's steps is done: 0.5 keeps the composition, 0.9 little of it. Default: 0.5. */
      strength?: number;
      /** Sampler steps of a whole run, or a schedule's name. Default: 25. */
      timesteps?: number | string;
      /** Default: what its folder says, else 7. */
      guidance?: number;
    };
  };
  /** Probability that a caption is replaced by the empty one, drawn anew every epoch: guidance needs it. Default: 0.1. */
  captionDropout?: number;
  objective?: {
    /** What the network predicts. Default: what its scheduler says. */
    prediction?: 'epsilon' | 'v_prediction';
    /**
     * `learned`: the variance half of the output is trained by the variational bound; `fixed`: it is not, and the result is
     * sampled with `fixed_small`. Default: `learned` where the model has that half and its scheduler uses it.
     */
    variance?: 'learned' | 'fixed';
    /** Default: `mse`. */
    loss?: 'mse' | 'huber';
    /** Where Huber's loss becomes linear. Default: 1. */
    huberDelta?: number;
    /** By timestep. Default: none. Min-SNR: gamma 5. Debiased: maxWeight 10. */
    weighting?: { type: 'none' } | { type: 'min_snr'; gamma?: number } | { type: 'debiased'; maxWeight?: number };
    /** How timesteps are drawn. Default: uniform. See TimestepSampling; portion 0.25, begin 0.25, end 0.75, multiplier 5. */
    timesteps?:
      | { type: 'uniform' } | { type: 'cubic' }
      | { type: 'earlier' | 'later'; portion?: number; multiplier?: number }
      | { type: 'range'; begin?: number; end?: number; multiplier?: number };
    noise?: {
      /** One normal number per channel is added to the noise, times this; 0.05 is usual. Default: 0. */
      offset?: number;
      /** Pyramid noise with this discount; 0.9 is usual. Default: 0, white noise. */
      pyramidDiscount?: number;
      /** γ: the picture gets noise + γ · ξ, the target stays noise; 0.1 in the paper (Ning et al. 2023). Default: 0. */
      inputPerturbation?: number;
    };
  };
  /** AdamW. */
  optimizer?: {
    /** Default: 1e-4. */
    lr?: number;
    /** Default: 1e-2. */
    weightDecay?: number;
    /** Default: 0.9. */
    beta1?: number;
    /** Default: 0.999. */
    beta2?: number;
    /** Default: 1e-8. */
    eps?: number;
    /** Largest norm of all gradients together; 0: not clipped. Default: 1. */
    clipNorm?: number;
    /** A norm above it, before clipping, stops the run as exploded; 0: none does. Default: 1e4. */
    normLimit?: number;
  };
  /** Of the learning rate. */
  schedule?: {
    /** After the warm-up: the same rate, or down to 0 at the last step. Default: `constant`. */
    type?: 'constant' | 'linear' | 'cosine';
    /** Steps over which the rate rises. Default: 0. */
    warmup?: number;
  };
  /**
   * Low-rank factors beside the linear layers of a frozen model are trained, instead of the model (Hu et al. 2021). The result
   * is an adapter of a few megabytes: `if-sample --lora FOLDER`.
   */
  lora?: {
    /** Default: 16. */
    rank?: number;
    /** The product counts alpha / rank times. Default: the rank. */
    alpha?: number;
    /** Probability that an input of a factor is zero while training. Default: 0. */
    dropout?: number;
    /**
     * Linear layers of the UNet, by whole names or their ends. Default: those of the attentions, `to_q`, `to_k`, `to_v`,
     * `to_out.0`, `add_k_proj`, `add_v_proj`.
     */
    targets?: string[];
    /** The text encoder gets factors as well. Default: false. */
    textEncoder?: boolean;
    /** Its layers. Default: `q`, `k`, `v`, `o`. */
    textTargets?: string[];
  };
  /** Pictures of one optimizer step, on all devices together. Default: 4. */
  batchSize?: number;
  /**
   * Pictures that a device takes at a time; the gradients of a step are added up. Another value changes rounding only.
   * Default: batchSize / devices.
   */
  microBatch?: number;
  /** Length of the run; this or `epochs`. */
  steps?: number;
  epochs?: number;
  /** Average of the weights, decay min(decay, (1 + n) / (10 + n)) after n steps; it is what the result is. Default: decay 0.9999. */
  ema?: false | { decay?: number };
  /** Loss on pictures that are not trained on, at fixed timesteps and with fixed noise. */
  validation?: false | {
    /** Where the pictures come from. Default: they are taken out of `data`. */
    data?: DataConfig;
    /** Default: 16, but at most a tenth of `data`. */
    pictures?: number;
    /** Timesteps per picture, evenly spaced. Default: 8. */
    timesteps?: number;
    /** Steps between two validations. Default: 500. */
    every?: number;
  };
  /** Pictures drawn while training, as PNG grids. */
  previews?: false | {
    /** Default: the captions of four pictures, held-out ones where there are. Stages II and III always use the latter's pictures. */
    prompts?: string[];
    /** Default: 500. */
    every?: number;
    /** Sampler steps, or a schedule's name. Default: 25. */
    timesteps?: number | string;
    /** Default: what the folder says, else 7 in stage I and 4 later. */
    guidance?: number;
    /** Default: 0. */
    seed?: number;
  };
  checkpoints?: {
    /** Steps between two checkpoints; one more is written at the end. Default: 500. */
    every?: number;
    /** How many are kept. Default: 3. */
    keep?: number;
  };
  /** Of everything that is drawn. Default: 0. */
  seed?: number;
  /** Of products and activations; parameters, gradients and moments are always float32. Default: `bf16`. */
  dtype?: DType;
  /** Of the convolutions: `exact` (direct sums), `default`, `fast`; see PRECISIONS. Default: `default`. */
  precision?: Precision;
  /** Compute the blocks again on the way back: less memory for about a third more time. Default: false. */
  gradientCheckpointing?: boolean;
  /** One replica of the model per device, all of one type, e.g. ['cuda:0', 'cuda:1']. Default: ['cpu']. */
  devices?: string[];
  /** CPU threads per device; 0 (default): the cores shared among them. */
  threads?: number;
  /** Folder of the run: checkpoints, metrics, previews, and at the end the pipeline. Default: runs/NAME of the file. */
  out?: string;
  /** Of the weights in the resulting pipeline. Default: `f32`. */
  saveDtype?: 'f32' | 'bf16' | 'f16';
}

/** Gives a configuration file its types and completion: `export default defineConfig({ … })`. */
export function defineConfig(config: TrainingConfig): TrainingConfig {
  return config;
}
