import { addon, type DType } from '../addon.js';
import type { Shape } from '../data/dataset.js';
import { lowResolution } from '../data/transforms.js';
import { IFError } from '../errors.js';
import { toBytes, toImages } from '../image.js';
import { UNet } from '../models/unet.js';
import { denoise } from '../pipelines/denoise.js';
import { sampleDefaults } from '../pipelines/sample-defaults.js';
import { Stage, type StageSettings } from '../pipelines/stage.js';
import { Purpose, type StatelessRandom } from '../stateless-random.js';
import type { TextSource } from './batch.js';
import type { LoadedSample } from './loader.js';
import { modelFolder } from './model.js';
import type { RunConfig } from './run-config.js';

type LowRes = NonNullable<RunConfig['lowRes']> & { stage1: NonNullable<NonNullable<RunConfig['lowRes']>['stage1']> };

/** A stage I that gives low-resolution pictures with the faults that the next stage will meet. */
export class Stage1Samples {
  private constructor(
    private readonly stage: Stage,
    private readonly unet: UNet,
    private readonly settings: StageSettings,
    private readonly lowRes: LowRes,
    private readonly random: StatelessRandom,
    private readonly text: TextSource,
  ) {}

  /**
   * Reads and checks the folder. Nothing is loaded.
   * @param shapes of the pictures that are trained on
   * @throws IFError `INVALID_ARGUMENT` when it is no stage I, reads other text, or cannot draw that size; as Stage.open
   */
  static async check({ lowRes, model }: RunConfig, textWidth: number, shapes: readonly Shape[]): Promise<{ stage: Stage; settings: StageSettings } | undefined> {
    const stage1 = lowRes?.stage1;
    if (!stage1) return undefined;
    const stage = await Stage.open(modelFolder(stage1.folder), stage1.variant);
    const where = `lowRes.stage1: ${stage.folder.dir}`;
    if (stage.upscales) throw new IFError('INVALID_ARGUMENT', `${where} is an upscaling stage; give a stage I`);
    if (stage.config.encoderHidDim !== textWidth) throw new IFError('INVALID_ARGUMENT', `${where} reads text of width ${stage.config.encoderHidDim}, the text encoder of ${model.textFolder ?? model.folder} gives ${textWidth}`);
    const { timesteps, guidance } = stage1;
    const settings = { ...await sampleDefaults(stage), timesteps, ...(guidance === undefined ? {} : { guidance }) };
    for (const { width, height } of shapes) stage.check(height / lowRes.factor, width / lowRes.factor, settings, 'lowRes.stage1');
    return { stage, settings };
  }

  /** Loads the network. @param text of captions; the samples' own and the empty one */
  static async open(config: RunConfig & { lowRes: LowRes }, textWidth: number, shapes: readonly Shape[], dtype: DType, random: StatelessRandom, text: TextSource, signal: AbortSignal | undefined): Promise<Stage1Samples> {
    const { stage, settings } = (await Stage1Samples.check(config, textWidth, shapes))!;
    const unet = await stage.load({ dtype, device: config.devices[0]!, precision: config.precision, ...(signal ? { signal } : {}) });
    return new Stage1Samples(stage, unet, settings, config.lowRes, random, text);
  }

  /**
   * The low-resolution picture of a sample: reduced, noised, and drawn again with its caption. It depends on the sample's
   * index, picture and caption only.
   * @returns RGB bytes
   */
  async draw({ image, caption, index, ...shape }: Pick<LoadedSample, 'image' | 'width' | 'height' | 'caption' | 'index'>): Promise<Uint8Array> {
    const { stage, settings, lowRes, unet } = this;
    const small = await lowResolution(image, shape, lowRes.factor, lowRes.filter);
    const width = shape.width / lowRes.factor;
    const height = shape.height / lowRes.factor;
    const seed = this.random.uniform(Purpose.LowResolution, index) * 2 ** 53;
    const generator = addon.generatorCreate(BigInt(seed));
    const { text } = await this.text([caption], unet.device);
    const negative = settings.guidance > 1 ? (await this.text([''], unet.device)).text : null;
    try {
      const images = await denoise(unet, {
        scheduler: stage.scheduler, noiser: undefined, text: text!, negativeText: negative ?? undefined, batch: 1, height, width, lowRes: undefined, generator, settings,
        start: { images: toImages(small, height, width), strength: lowRes.stage1.strength }, device: unet.device, index: 1,
      });
      if (!images) throw new IFError('WEIGHTS', `lowRes.stage1: the samples of ${stage.folder.dir} are not finite (NaN or infinity)`);
      return toBytes(images);
    } finally {
      text?.dispose();
      negative?.dispose();
      addon.dispose(generator);
    }
  }

  dispose(): void {
    this.unet.dispose();
  }
}
