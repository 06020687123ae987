import { existsSync } from 'node:fs';
import path from 'node:path';
import { addon, PRECISIONS, type Precision, type SampleDType, type T5DType } from '../addon.js';
import { resolveDevice, setThreads } from '../device.js';
import type { TimestepSpec } from '../diffusion/respacing.js';
import { IFError } from '../errors.js';
import { t5Arithmetic, textDType } from '../models/t5-encoder.js';
import { defaultCacheDir, encodePrompts, PROMPT_TOKENS, type PromptEmbedding, type TextEncoderFiles } from '../text/prompt-embeddings.js';
import { Tensor, type Images } from '../tensor.js';
import { checkLora } from '../weights/lora-format.js';
import { loraFactors, readLoras, type AppliedLora, type LoraSpec } from '../weights/lora.js';
import { t5Tensors } from '../weights/t5-tensors.js';
import { nearestName } from '../suggest.js';
import { EMBEDDED_FOLDER } from './embedded.js';
import { assignLoras, loraBase } from './lora.js';
import { availableMemory, checkPlan, isCuda, planCascade, type CascadePlan } from './memory-plan.js';
import type { OnProgress } from './progress.js';
import { sampleDefaults, type SampleDefaults } from './sample-defaults.js';
import { Stage, type StageSettings } from './stage.js';
import { openTextEncoder } from './text-encoder.js';

export interface CascadeOptions {
  /** Pipeline folders, finest last. Left out: the embedded `if-emoji` with all its stages. stage2 and stage3 need stage1. */
  stage1?: string;
  stage2?: string;
  stage3?: string;
  /**
   * Adapters, whose products are added to the weights while they are loaded. Left out with an adapter that names a base model
   * of stage I: stage1 is that one.
   */
  lora?: readonly LoraSpec[];
  /** Weights of this variant instead of the plain files. */
  variant?: 'fp16' | 'bf16';
  /** Arithmetic; f16 on a GPU only. Left out: on the CPU f32 where the memory plan allows it, else bf16. */
  dtype?: SampleDType;
  /** Of the text encoder; `int8`: int8 weights, half the memory of bf16, with arithmetic in `dtype`. Left out: `dtype`. Beside f16, which T5 overflows, bf16 takes its place. */
  t5Dtype?: T5DType;
  /** Of the convolutions. Default: `default`. */
  precision?: Precision;
  /** `cpu` (default), `cuda`, `cuda:1`, … */
  device?: string;
  /** CPU threads; 0 (default) = the cores that this process may use. */
  threads?: number;
  /** Folder of the prompt-embedding cache; null: none. Default: see defaultCacheDir. */
  cacheDir?: string | null;
}

export interface GenerateOptions {
  /** One prompt or several; a batch has prompts × numImages pictures. */
  prompt: string | string[];
  /** What to steer away from, in every stage; one for all prompts or one per prompt. Default: the empty text. */
  negativePrompt?: string | string[];
  /** Seed of torch's CPU generator, [0, 2^64). One generator draws for the whole batch and goes on through the stages. */
  seed?: number | bigint;
  numImages?: number;
  /** Per stage: the number of steps, a schedule's name or list (see parseTimesteps). */
  timesteps?: TimestepSpec[];
  /** Per stage: guidance weight. */
  guidance?: number[];
  /** Noise level of the low-resolution pictures, [0, 1000). */
  noiseLevel?: number;
  /** Size of stage I; later stages enlarge it by a whole factor (4 in IF). Default: what stage I was trained on. */
  height?: number;
  width?: number;
  onProgress?: OnProgress;
  signal?: AbortSignal;
}

export interface GenerateResult {
  /** Pictures of the last stage, prompt-major: picture p * numImages + i belongs to prompt p. Values as the sampler leaves
   *  them, in about [-1, 1]. */
  images: Images;
  /** Pictures of every stage, first to last; the last entry is `images`. */
  stages: Images[];
  seed: bigint;
  /** What was used, per stage. */
  settings: StageSettings[];
  dtype: SampleDType;
  t5Dtype: T5DType;
  precision: Precision;
  lora: readonly Required<LoraSpec>[];
}

/** A DeepFloyd IF cascade: T5 and one to three pixel-diffusion stages, loaded one at a time. */
export class Cascade {
  private constructor(
    readonly stages: Stage[],
    /** Defaults of each stage. */
    readonly defaults: SampleDefaults[],
    readonly textEncoder: TextEncoderFiles,
    /** Adapters that are a part of stages and text encoder. */
    readonly lora: readonly Required<LoraSpec>[],
    readonly device: string,
    private readonly dtype: SampleDType | undefined,
    private readonly t5Dtype: T5DType | undefined,
    private readonly precision: Precision,
    private readonly cacheDir: string | null,
  ) {}

  /**
   * Reads the configurations; weights are loaded by `generate`, one component at a time.
   * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED`, `INVALID_ARGUMENT`, `NOT_BUILT`
   */
  static async load(options: CascadeOptions = {}): Promise<Cascade> {
    checkOptions('load', options, {
      stage1: isString, stage2: isString, stage3: isString, device: isString, variant: ['fp16', 'bf16'],
      dtype: ['f32', 'bf16', 'f16'], t5Dtype: ['f32', 'bf16', 'int8'], precision: PRECISIONS, threads: isNumber, lora: isLoraList, cacheDir: (v) => v === null || isString(v),
    });
    const device = resolveDevice(options.device ?? 'cpu');
    if (options.dtype === 'f16' && !isCuda(device)) throw new IFError('INVALID_ARGUMENT', `dtype: f16 needs a GPU (device cuda), got ${device}; bf16 is as small`);
    if (options.threads !== undefined) setThreads(device, options.threads);
    const loras = await readLoras(options.lora ?? []);
    const dirs = stageFolders(options, loras);
    const stages: Stage[] = [];
    for (const dir of dirs) stages.push(await Stage.open(dir, options.variant));
    stages.forEach((stage, i) => {
      if (stage.upscales !== i > 0) {
        throw new IFError('INVALID_ARGUMENT', `stage${i + 1}: ${stage.folder.dir} is ${stage.upscales ? 'an upscaling stage; give it as stage2 or stage3' : 'a stage I; give it as stage1'}`);
      }
    });
    const textEncoder = await openTextEncoder(stages[0]!.folder, 'stage1', options.variant ? { variant: options.variant } : {});
    stages.forEach((stage, i) => {
      if (stage.config.encoderHidDim !== textEncoder.config.dModel) {
        throw new IFError('INVALID_ARGUMENT', `stage${i + 1}: ${stage.folder.dir} was trained on text of width ${stage.config.encoderHidDim}, the text encoder of stage1 gives ${textEncoder.config.dModel}`);
      }
    });
    const perStage = assignLoras(loras, stages);
    for (const [i, stage] of stages.entries()) stages[i] = await stage.adapted(perStage[i]!);
    for (const lora of loras) checkLora(lora, 'text_encoder', t5Tensors(textEncoder.config), lora.path);
    const defaults = await Promise.all(stages.map((stage) => sampleDefaults(stage)));
    const cacheDir = options.cacheDir === undefined ? defaultCacheDir() : options.cacheDir;
    return new Cascade(stages, defaults, { ...textEncoder, lora: loraFactors(loras, 'text_encoder') }, loras.map(({ path: dir, scale }) => ({ path: dir, scale })), device, options.dtype, options.t5Dtype, options.precision ?? 'default', cacheDir);
  }

  /**
   * Draws pictures.
   * @throws IFError `INVALID_ARGUMENT` before anything is loaded, `OUT_OF_MEMORY` from the plan, `WEIGHTS`, `CANCELLED`
   */
  async generate(options: GenerateOptions): Promise<GenerateResult> {
    checkOptions('generate', options, {
      prompt: isText, negativePrompt: isText, seed: (v) => isNumber(v) || typeof v === 'bigint', numImages: isNumber,
      timesteps: (v) => Array.isArray(v) && v.every((t) => isNumber(t) || isString(t) || (Array.isArray(t) && t.every(isNumber))),
      guidance: (v) => Array.isArray(v) && v.every(isNumber), noiseLevel: isNumber, height: isNumber, width: isNumber,
      onProgress: (v) => typeof v === 'function', signal: (v) => v instanceof AbortSignal,
    });
    const prompts = promptList(options.prompt, 'prompt');
    const numImages = options.numImages ?? 1;
    if (!(Number.isInteger(numImages) && numImages >= 1 && numImages <= 1024)) throw new IFError('INVALID_ARGUMENT', `numImages: expected an integer in [1, 1024], got ${numImages}`);
    const negatives = negativeList(options.negativePrompt, prompts.length);
    const settings = this.settings(options);
    const sizes = this.sizes(options);
    this.stages.forEach((stage, i) => stage.check(sizes[i]![0], sizes[i]![1], settings[i]!, `stage${i + 1}`));
    const seed = checkedSeed(options.seed);
    const batch = prompts.length * numImages;
    const { plan, dtype } = await this.plan(batch, sizes, settings);
    const t5Dtype = this.t5Dtype ?? textDType(dtype);
    const { onProgress, signal } = options;
    for (const part of plan) onProgress?.({ type: 'plan', ...part });

    const guided = settings.some((s) => s.guidance > 1);
    const embeddings = await encodePrompts([...prompts, ...(guided ? negatives : [])], this.textEncoder, {
      ...t5Arithmetic(t5Dtype, dtype), device: this.device, cacheDir: this.cacheDir,
      onWarning: (message) => onProgress?.({ type: 'warning', message }),
      onProgress: (done, total) => onProgress?.({ type: 'load', component: 'text_encoder', done, total }),
      ...(signal ? { signal } : {}),
    });
    using text = this.textTensor(embeddings.slice(0, prompts.length), numImages);
    const negativeText = guided ? this.textTensor(embeddings.slice(prompts.length), numImages) : undefined;

    const generator = addon.generatorCreate(seed);
    const pictures: Images[] = [];
    try {
      for (const [i, stage] of this.stages.entries()) {
        const [height, width] = sizes[i]!;
        pictures.push(await stage.sample({
          text, negativeText: settings[i]!.guidance > 1 ? negativeText : undefined, batch, height, width,
          lowRes: pictures[i - 1], generator, settings: settings[i]!, dtype, precision: this.precision, device: this.device, index: i + 1, onProgress, signal,
        }));
      }
    } finally {
      negativeText?.dispose();
      addon.dispose(generator);
    }
    return { images: pictures.at(-1)!, stages: pictures, seed, settings, dtype, t5Dtype, precision: this.precision, lora: this.lora };
  }

  /** Height and width of every stage. */
  private sizes(options: GenerateOptions): [number, number][] {
    const native = this.stages[0]!.config.sampleSize ?? 64;
    let size: [number, number] = [options.height ?? native, options.width ?? native];
    return this.stages.map((stage, i) => {
      if (i > 0) {
        const factor = upscaleFactor(this.stages[i - 1]!, stage);
        size = [size[0] * factor, size[1] * factor];
      }
      return size;
    });
  }

  private settings(options: GenerateOptions): StageSettings[] {
    for (const [name, list] of [['timesteps', options.timesteps], ['guidance', options.guidance]] as const) {
      if (list && list.length > this.stages.length) {
        throw new IFError('INVALID_ARGUMENT', `${name}: ${list.length} values for ${this.stages.length} stage(s); give at most one per stage`);
      }
    }
    return this.stages.map((_, i) => {
      const defaults = this.defaults[i]!;
      return {
        timesteps: options.timesteps?.[i] ?? defaults.timesteps,
        guidance: options.guidance?.[i] ?? defaults.guidance,
        noiseLevel: options.noiseLevel ?? defaults.noiseLevel,
      };
    });
  }

  private async plan(batch: number, sizes: [number, number][], settings: StageSettings[]): Promise<{ plan: CascadePlan; dtype: SampleDType }> {
    const checked = async (dtype: SampleDType): Promise<{ plan: CascadePlan; dtype: SampleDType }> => {
      const t5Dtype = this.t5Dtype ?? textDType(dtype);
      const plan = await planCascade(this.textEncoder.config, this.stages.map((stage, i) => ({
        stage, batch, height: sizes[i]![0], width: sizes[i]![1], guided: settings[i]!.guidance > 1,
      })), dtype, t5Dtype, this.precision, this.device);
      checkPlan(plan, dtype, t5Dtype, availableMemory(this.device));
      return { plan, dtype };
    };
    if (this.dtype) return checked(this.dtype);
    if (isCuda(this.device)) return checked('bf16');
    try {
      return await checked('f32');
    } catch (error) {
      if (!(error instanceof IFError && error.code === 'OUT_OF_MEMORY')) throw error;
      return checked('bf16');
    }
  }

  /** (B, T, C): every prompt's embedding `repeat` times, as diffusers' repeat_interleave. */
  private textTensor(embeddings: PromptEmbedding[], repeat: number): Tensor {
    const width = this.textEncoder.config.dModel;
    const size = PROMPT_TOKENS * width;
    const all = new Float32Array(embeddings.length * repeat * size);
    embeddings.forEach((embedding, p) => {
      for (let i = 0; i < repeat; i++) all.set(embedding, (p * repeat + i) * size);
    });
    return Tensor.from(all, [embeddings.length * repeat, PROMPT_TOKENS, width], this.device);
  }
}

const isString = (v: unknown): boolean => typeof v === 'string';
const isNumber = (v: unknown): boolean => typeof v === 'number';
const isLoraList = (v: unknown): boolean => Array.isArray(v) && v.every((lora) => typeof lora === 'object' && lora !== null && isString((lora as LoraSpec).path) && ['undefined', 'number'].includes(typeof (lora as LoraSpec).scale));
const isText = (v: unknown): boolean => isString(v) || (Array.isArray(v) && v.every(isString));

/** Names and types of options, for callers without TypeScript. @throws IFError `INVALID_ARGUMENT` */
function checkOptions(call: string, options: unknown, known: Record<string, readonly string[] | ((value: unknown) => boolean)>): void {
  if (typeof options !== 'object' || options === null) throw new IFError('INVALID_ARGUMENT', `${call}: expected an object of options, got ${typeof options}`);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name)) {
      const meant = nearestName(name, Object.keys(known));
      throw new IFError('INVALID_ARGUMENT', `${call}: unknown option "${name}"${meant ? `; did you mean "${meant}"?` : ''}`);
    }
    const check = known[name]!;
    if (value === undefined || (typeof check === 'function' ? check(value) : check.includes(value as string))) continue;
    const expected = typeof check === 'function' ? 'a value of the wrong type' : `expected ${check.slice(0, -1).join(', ')} or ${check.at(-1)}`;
    throw new IFError('INVALID_ARGUMENT', `${call}: ${name}: ${expected}, got ${typeof value === 'string' ? JSON.stringify(value) : Array.isArray(value) ? 'an array' : value === null ? 'null' : typeof value}`);
  }
}

/** The cascade that comes with the package: stage I in models/if-emoji, later stages in its folders stage2 and stage3. */
function embeddedCascade(): string[] {
  const later = ['stage2', 'stage3'].map((name) => path.join(EMBEDDED_FOLDER, name));
  return [EMBEDDED_FOLDER, ...later.filter((dir) => existsSync(dir))];
}

function stageFolders(options: CascadeOptions, loras: readonly AppliedLora[]): string[] {
  const { stage2, stage3 } = options;
  const stage1 = options.stage1 ?? loraBase(loras);
  if (stage1 === undefined && (stage2 !== undefined || stage3 !== undefined)) throw new IFError('INVALID_ARGUMENT', 'stage1: expected a folder when stage2 or stage3 is given');
  if (stage3 !== undefined && stage2 === undefined) throw new IFError('INVALID_ARGUMENT', 'stage2: expected a folder when stage3 is given');
  if (stage1 === undefined) return embeddedCascade();
  return [stage1, stage2, stage3].filter((dir): dir is string => dir !== undefined);
}

/** The ratio of the sizes that two stages were trained on: 4 in IF. */
function upscaleFactor(small: Stage, large: Stage): number {
  const ratio = (large.config.sampleSize ?? 0) / (small.config.sampleSize ?? 0);
  return Number.isInteger(ratio) && ratio >= 1 ? ratio : 4;
}

function promptList(value: string | string[], name: string): string[] {
  const list = Array.isArray(value) ? value : [value];
  if (list.length < 1 || list.length > 1024) throw new IFError('INVALID_ARGUMENT', `${name}: expected 1 to 1024 texts, got ${list.length}`);
  for (const text of list) if (typeof text !== 'string') throw new IFError('INVALID_ARGUMENT', `${name}: expected text, got ${typeof text}`);
  return list;
}

function negativeList(value: string | string[] | undefined, prompts: number): string[] {
  const list = promptList(value ?? '', 'negativePrompt');
  if (list.length !== 1 && list.length !== prompts) throw new IFError('INVALID_ARGUMENT', `negativePrompt: expected 1 text or ${prompts}, got ${list.length}`);
  return Array.from({ length: prompts }, (_, i) => list[list.length === 1 ? 0 : i]!);
}

/** A seed of 32 random bits: short enough to be typed again. */
export function randomSeed(): bigint {
  return BigInt(Math.floor(Math.random() * 2 ** 32));
}

function checkedSeed(seed: number | bigint | undefined): bigint {
  if (seed === undefined) return randomSeed();
  const valid = typeof seed === 'bigint' ? seed >= 0n && seed < 1n << 64n : Number.isSafeInteger(seed) && seed >= 0;
  if (!valid) throw new IFError('INVALID_ARGUMENT', `seed: expected an integer in [0, 2^64), got ${seed}`);
  return BigInt(seed);
}
