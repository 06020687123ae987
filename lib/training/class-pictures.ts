// DreamBooth's prior preservation (Ruiz et al. 2023, section 3.3): pictures of the class as the model draws it before it is
// trained keep it from forgetting what else the class looks like.
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { addon, type GeneratorHandle } from '../addon.js';
import { readShape } from '../data/decode.js';
import { isPictureName } from '../data/folder.js';
import { listFolder } from '../data/walk.js';
import { IFError } from '../errors.js';
import { checkWritable, ioError } from '../files.js';
import { readPngText, writePng } from '../image.js';
import { t5Arithmetic } from '../models/t5-encoder.js';
import { denoise } from '../pipelines/denoise.js';
import { availableMemory, checkPlan, planCascade } from '../pipelines/memory-plan.js';
import { sampleDefaults } from '../pipelines/sample-defaults.js';
import { Stage, type StageSettings } from '../pipelines/stage.js';
import { Tensor, type Images } from '../tensor.js';
import { encodePrompts, PROMPT_TOKENS } from '../text/prompt-embeddings.js';
import type { OnTrainingEvent } from './events.js';
import { modelFolder, type TrainableModel } from './model.js';
import type { RunConfig } from './run-config.js';

const NAME = /^class-(\d{6,})\.png$/;
const fileName = (number: number): string => `class-${String(number).padStart(6, '0')}.png`;

interface ClassStage {
  stage: Stage;
  settings: StageSettings;
  /** Of its pictures. */
  side: number;
}

/** The pictures of the class that have to be drawn before a run can begin. */
export class ClassPictures {
  private constructor(
    private readonly config: RunConfig,
    private readonly model: TrainableModel,
    private readonly folder: string,
    private readonly prompt: string,
    private readonly stages: readonly ClassStage[],
    /** Number of each: the seed is that of the run plus it. */
    readonly missing: readonly number[],
    /** Pictures that the folder has once they are drawn. */
    readonly length: number,
  ) {}

  /**
   * Counts what the folder has, and checks that the rest can be drawn. Nothing is loaded.
   * @returns undefined when nothing is asked for
   * @throws IFError `INVALID_ARGUMENT` for stages that do not fit, and a folder with pictures that were drawn for another prompt, or smaller;
   *   `OUT_OF_MEMORY`; `IO`; as Stage.open
   */
  static async check(config: RunConfig, model: TrainableModel): Promise<ClassPictures | undefined> {
    const { priorPreservation } = config;
    const { data, generate } = priorPreservation ?? {};
    if (!generate || data?.type !== 'folder' || data.caption === undefined) return undefined; // the schema has checked the last two
    const folder = path.resolve(data.path);
    const stages = await openStages(config, model, generate);
    const { missing, present } = await missingNumbers(folder, data.caption, config.size, generate.pictures);
    if (missing.length > 0) {
      const t5Dtype = config.model.textDtype ?? config.dtype;
      const plan = await planCascade(model.text.config, stages.map(({ stage, settings, side }) => ({ stage, batch: 1, height: side, width: side, guided: settings.guidance > 1 })), config.dtype, t5Dtype, config.precision, config.devices[0]!);
      checkPlan(plan, config.dtype, t5Dtype, availableMemory(config.devices[0]!));
    }
    return new ClassPictures(config, model, folder, data.caption, stages, missing, present + missing.length);
  }

  /**
   * Draws what is missing: stage by stage, each loaded once. A picture depends on prompt, seed and settings alone, and is
   * what if-sample draws with them; it is written when it is whole, so that a run that was interrupted goes on with the rest.
   * @throws IFError `CANCELLED`, `WEIGHTS`, `IO`
   */
  async draw(cacheDir: string | null, onEvent: OnTrainingEvent, signal: AbortSignal | undefined): Promise<void> {
    const { config, missing } = this;
    if (missing.length === 0) return;
    try {
      await mkdir(this.folder, { recursive: true });
    } catch (error) {
      throw ioError('writing', this.folder, error);
    }
    await checkWritable(path.join(this.folder, fileName(0)));
    onEvent({ type: 'status', message: `drawing pictures of "${this.prompt}" for ${this.folder}: ${missing.length} are missing` });
    const device = config.devices[0]!;
    const [embedding, empty] = await encodePrompts([this.prompt, ''], this.model.text, {
      ...t5Arithmetic(config.model.textDtype ?? config.dtype, config.dtype), device, cacheDir,
      onWarning: (message) => onEvent({ type: 'warning', message }),
      onProgress: (done, total) => onEvent({ type: 'load', component: 'text_encoder', done, total, unit: 'bytes' }),
      ...(signal ? { signal } : {}),
    });
    const shape = [1, PROMPT_TOKENS, this.model.text.config.dModel];
    using text = Tensor.from(embedding!, shape, device);
    using negativeText = Tensor.from(empty!, shape, device);
    const generators = missing.map((number) => addon.generatorCreate(this.seed(number)));
    try {
      let pictures: Images[] | undefined;
      for (const index of this.stages.keys()) pictures = await this.drawStage(index, pictures, { text, negativeText }, generators, onEvent, signal);
    } finally {
      for (const generator of generators) addon.dispose(generator);
    }
  }

  private seed(number: number): bigint {
    return BigInt(this.config.seed) + BigInt(number);
  }

  /** Every missing picture by one stage; those of the last stage are written instead of kept. */
  private async drawStage(
    index: number, lowRes: readonly Images[] | undefined, { text, negativeText }: { text: Tensor; negativeText: Tensor },
    generators: readonly GeneratorHandle[], onEvent: OnTrainingEvent, signal: AbortSignal | undefined,
  ): Promise<Images[]> {
    const { stage, settings, side } = this.stages[index]!;
    const { dtype, precision, devices } = this.config;
    const device = devices[0]!;
    const last = index === this.stages.length - 1;
    const unet = await stage.load({ dtype, precision, device, ...(signal ? { signal } : {}) });
    const pictures: Images[] = [];
    try {
      for (const [i, number] of this.missing.entries()) {
        const drawn = await denoise(unet, {
          scheduler: stage.scheduler, noiser: stage.noiser, text, negativeText: settings.guidance > 1 ? negativeText : undefined, batch: 1, height: side, width: side,
          lowRes: lowRes?.[i], generator: generators[i]!, settings, device, index: index + 1, signal,
        });
        if (!drawn) throw new IFError('WEIGHTS', `priorPreservation.generate: a picture of ${stage.folder.dir} is not finite (NaN or infinity)`);
        if (last) await this.write(number, drawn);
        else pictures.push(drawn);
        onEvent({ type: 'load', component: last ? 'drawing class pictures' : `drawing class pictures, stage${index + 1}`, done: i + 1, total: this.missing.length, unit: 'items' });
      }
    } finally {
      unet.dispose();
      addon.releaseCached(device);
    }
    return pictures;
  }

  private write(number: number, picture: Images): Promise<void> {
    const { dtype, precision, model } = this.config;
    const settings = JSON.stringify({ dtype, ...(model.textDtype && model.textDtype !== dtype ? { t5Dtype: model.textDtype } : {}), precision, stages: this.stages.map((stage) => stage.settings) });
    return writePng(path.join(this.folder, fileName(number)), picture, { prompt: this.prompt, seed: String(this.seed(number)), settings, Software: 'deepfloyd-if' });
  }
}

type Generate = NonNullable<NonNullable<RunConfig['priorPreservation']>['generate']>;

/** The stages that draw: the model before it is trained, behind a stage I where it is an upscaling one. */
async function openStages({ model: { folder, variant, fromScratch }, stage, size, lowRes }: RunConfig, model: TrainableModel, { stage1, timesteps }: Generate): Promise<ClassStage[]> {
  const fail = (message: string): never => {
    throw new IFError('INVALID_ARGUMENT', `priorPreservation.generate: ${message}`);
  };
  if (fromScratch) fail('a model from scratch cannot draw the class; put pictures into the folder, and leave generate out');
  if (stage === 3) fail('stages I and II only; put pictures into the folder, and leave generate out');
  if (model.noiser && !stage1) fail('an upscaling stage enlarges what a stage I draws: set generate.stage1 to its pipeline folder');
  if (!model.noiser && stage1) fail('stage1 is for a model that is an upscaling stage; leave it out');
  const opened = [...(stage1 ? [await Stage.open(modelFolder(stage1.folder), stage1.variant)] : []), await Stage.open(modelFolder(folder), variant)];
  const stages: ClassStage[] = [];
  for (const [i, one] of opened.entries()) {
    if (one.upscales !== i > 0) fail(`stage1: ${one.folder.dir} is an upscaling stage; give a stage I`);
    if (one.config.encoderHidDim !== model.text.config.dModel) fail(`stage1: ${one.folder.dir} reads text of width ${one.config.encoderHidDim}, the text encoder of the run gives ${model.text.config.dModel}`);
    const settings = { ...await sampleDefaults(one), ...(timesteps === undefined ? {} : { timesteps }) };
    const side = i === opened.length - 1 ? size : size / lowRes!.factor;
    one.check(side, side, settings, 'priorPreservation.generate');
    stages.push({ stage: one, settings, side });
  }
  return stages;
}

/** How many pictures are there, and the numbers of those that are not. Other pictures in the folder count as well, whoever made them. */
async function missingNumbers(folder: string, prompt: string, size: number, wanted: number): Promise<{ missing: number[]; present: number }> {
  const names = await listFolder(folder).then(({ files }) => files.filter(isPictureName), (error: unknown) => {
    if (error instanceof IFError && error.code === 'NOT_FOUND') return [];
    throw error;
  });
  const drawn = new Set<number>();
  for (const name of names) {
    const [, number] = NAME.exec(name) ?? [];
    if (number === undefined) continue;
    drawn.add(Number(number));
    const text = await readPngText(path.join(folder, name)).catch((error: unknown) => {
      if (error instanceof IFError && error.code === 'FILE_FORMAT') return undefined; // skipped and named when it is trained on
      throw error;
    });
    if (text?.['prompt'] === undefined) continue;
    const refuse = (what: string): never => {
      throw new IFError('INVALID_ARGUMENT', `priorPreservation.data: ${path.join(folder, name)} was drawn ${what}: remove the class-*.png files there, or choose another folder`);
    };
    if (text['prompt'] !== prompt) refuse(`for "${text['prompt']}", not for "${prompt}"`);
    const shape = await readShape(path.join(folder, name));
    if ('width' in shape && shape.width < size) refuse(`with ${shape.width} pixels a side, the run trains on ${size}`);
  }
  const missing: number[] = [];
  for (let number = 0; missing.length < wanted - names.length; number++) if (!drawn.has(number)) missing.push(number);
  return { missing, present: names.length };
}
