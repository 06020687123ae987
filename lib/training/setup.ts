import { mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { DataContext } from '../data/context.js';
import type { Dataset, Sample, Shape } from '../data/dataset.js';
import { openDataset, type DataConfig } from '../data/open.js';
import { resolveDevice, setThreads } from '../device.js';
import { addon } from '../addon.js';
import { DDPMScheduler } from '../diffusion/ddpm.js';
import { IFError } from '../errors.js';
import { checkWritable, ioError, writeFileAtomic } from '../files.js';
import { gigabytes } from '../pipelines/memory-plan.js';
import { StatelessRandom } from '../stateless-random.js';
import { Checkpoints, type Checkpoint } from './checkpoint.js';
import { ClassPictures } from './class-pictures.js';
import type { OnTrainingEvent } from './events.js';
import { pipelineTexts, trainedScheduler, type PipelineTexts } from './export.js';
import type { LoaderSource } from './loader.js';
import { checkDiskSpace, checkTrainingPlan, leastMemory, peakBytes, planTraining, type TrainingPlan } from './memory-plan.js';
import { openModel, type TrainableModel } from './model.js';
import { PREVIEW_BATCH, type PreviewItem } from './preview.js';
import type { ResolvedConfig } from './resolve-config.js';
import { completeConfig, heldOutPictures, pictureShapes, trajectoryDifferences, type RunConfig } from './run-config.js';
import { holdOut } from './sample-order.js';
import { shapesText, trainingSources } from './sources.js';
import { Stage1Samples } from './stage1-samples.js';
import { readPictures } from './validation.js';

export interface SetupOptions {
  resume: boolean;
  /** See DataContext. */
  cacheDir: string | null;
  onEvent: OnTrainingEvent;
  signal: AbortSignal | undefined;
}

/** A run that is checked and may begin: nothing heavy is loaded yet. */
export interface Setup {
  config: RunConfig;
  model: TrainableModel;
  /** As the result is sampled. */
  scheduler: DDPMScheduler;
  random: StatelessRandom;
  /** What is trained on; the first is `data`. */
  sources: LoaderSource[];
  datasets: Dataset[];
  /** Pictures of the validation; none when it is off. */
  heldOut: Sample[];
  /** Of the pictures that are trained on. */
  shapes: Shape[];
  previewItems: PreviewItem[];
  plan: TrainingPlan;
  /** The small files of the result. */
  pipeline: PipelineTexts;
  checkpoints: Checkpoints;
  /** Where to go on. */
  checkpoint: Checkpoint | undefined;
}

/**
 * Opens model and data and checks everything that can be checked: configuration, pictures, the folder of the run, memory
 * and disk; then draws the pictures of the class that are missing.
 * @throws IFError with one line that says what is wrong
 */
export async function setUp(given: ResolvedConfig, options: SetupOptions): Promise<Setup> {
  const { onEvent, signal } = options;
  const onWarning = (message: string): void => onEvent({ type: 'warning', message });
  const devices = useDevices(given);
  const model = await openModel(given);
  const folders = [model.folder.dir, model.textFolder.dir];
  if (folders.includes(path.resolve(given.out))) throw new IFError('INVALID_ARGUMENT', `out: ${given.out} is the folder that the run starts from; choose another one`);

  const datasets: Dataset[] = [];
  const open = async (data: DataConfig): Promise<Dataset> => {
    const dataset = await openDataset(data, dataContext(options));
    datasets.push(dataset);
    return dataset;
  };
  try {
    const data = await open(given.data as DataConfig);
    const validationData = given.validation && given.validation.data ? await open(given.validation.data as DataConfig) : undefined;
    const config = completeConfig({ ...given, devices }, model, { data, ...(validationData ? { validation: validationData.length } : {}) });
    const classPictures = await ClassPictures.check(config, model);
    const openPrior = async (): Promise<Dataset | undefined> => config.priorPreservation && open(config.priorPreservation.data as DataConfig);
    const ready = classPictures?.missing.length ? undefined : await openPrior();
    const shapes = pictureShapes(config, model);
    const pipeline = await pipelineTexts(model, config);

    await prepareFolder(config.out);
    const checkpoints = new Checkpoints(path.join(config.out, 'checkpoints'), config.checkpoints.keep);
    const checkpoint = await findCheckpoint(checkpoints, config, data, options.resume, onEvent);
    checkPrior(checkpoint, ready?.length ?? classPictures?.length);

    const random = new StatelessRandom(BigInt(config.seed));
    const { training, heldOut } = holdOut(random, data.length, heldOutPictures(config));
    const validationIndices = validationData && config.validation ? Array.from({ length: config.validation.pictures }, (_, i) => i) : heldOut;
    const pictures = config.validation ? await readPictures(validationData ?? data, validationIndices, config.size, signal) : [];
    const previewItems = await choosePreviews(config, model, pictures, data, training, signal);

    const stage1 = await Stage1Samples.check(config, model.text.config.dModel, shapes);
    const plan = await planTraining(model, config, shapes, Math.min(previewItems.length, PREVIEW_BATCH), stage1);
    for (const component of ['encoding', 'training', 'preview', 'lowRes'] as const) {
      const part = plan[component];
      if (part) onEvent({ type: 'plan', component, weightBytes: part.weightBytes, activationBytes: part.activationBytes });
    }
    checkTrainingPlan(plan, config);
    onEvent({ type: 'status', message: `memory: about ${gigabytes(peakBytes(plan))} of the ${gigabytes(leastMemory(config.devices))} that are available` });
    await checkDiskSpace(plan, config.out, onWarning, config.checkpoints.keep);
    await writeFileAtomic(path.join(config.out, 'training_config.json'), `${JSON.stringify(config, null, 2)}\n`);
    await classPictures?.draw(options.cacheDir, onEvent, signal);
    const prior = ready ?? await openPrior();
    const sources = await trainingSources(data, training, prior, { config, random, shapes, onEvent, signal });
    checkBuckets(checkpoint, sources[0]!.order.perShape);
    const scheduler = DDPMScheduler.fromConfig(trainedScheduler(model.schedulerJson, config.objective), `${model.folder.scheduler}/scheduler_config.json`);
    return { config, model, scheduler, random, sources, datasets, heldOut: pictures, shapes, previewItems, plan, pipeline, checkpoints, checkpoint };
  } catch (error) {
    await Promise.allSettled(datasets.map((dataset) => dataset.close()));
    throw error;
  }
}

function dataContext({ cacheDir, onEvent }: SetupOptions): DataContext {
  return {
    base: process.cwd(), cacheDir,
    onWarning: (message) => onEvent({ type: 'warning', message }),
    onProgress: (component, done, total) => onEvent({ type: 'load', component, done, total, unit: 'items' }),
  };
}

/** Checks the devices and shares the cores among them. */
function useDevices({ devices, threads }: ResolvedConfig): string[] {
  if (new Set(devices.map((name) => name.split(':')[0])).size > 1) throw new IFError('INVALID_ARGUMENT', `devices: expected all of one type, got ${devices.join(', ')}`);
  const names = devices.map(resolveDevice);
  if (new Set(names).size !== names.length) throw new IFError('INVALID_ARGUMENT', `devices: expected each once, got ${devices.join(', ')}`);
  const each = threads > 0 || names.length === 1 ? threads : Math.max(1, Math.floor(addon.cpuInfo().cores / names.length));
  for (const name of names) setThreads(name, each);
  return names;
}

async function prepareFolder(dir: string): Promise<void> {
  try {
    await mkdir(path.join(dir, 'previews'), { recursive: true });
    // what a killed process left of files that it was writing
    for (const folder of [dir, path.join(dir, 'previews')]) {
      for (const name of await readdir(folder)) if (/^\.if-.*\.tmp$/.test(name)) await rm(path.join(folder, name), { force: true });
    }
  } catch (error) {
    throw ioError('writing', dir, error);
  }
  await checkWritable(path.join(dir, 'training_config.json'));
}

async function findCheckpoint(checkpoints: Checkpoints, config: RunConfig, data: Dataset, resume: boolean, onEvent: OnTrainingEvent): Promise<Checkpoint | undefined> {
  const onWarning = (message: string): void => onEvent({ type: 'warning', message });
  if (!resume) {
    if (await checkpoints.any()) throw new IFError('INVALID_ARGUMENT', `out: ${config.out} holds a run already: continue it with --resume, or choose another folder with --out`);
    await checkpoints.removeUnfinished(onWarning);
    return undefined;
  }
  await checkpoints.removeUnfinished(onWarning);
  const checkpoint = await checkpoints.latest(onWarning);
  if (!checkpoint) {
    onEvent({ type: 'status', message: `no checkpoint in ${config.out}: starting at the first step` });
    return undefined;
  }
  const { state } = checkpoint;
  const keys = trajectoryDifferences(state.config, config);
  if (keys.length > 0) {
    throw new IFError('INVALID_ARGUMENT', `--resume: the configuration differs from that of the run in ${config.out} in ${keys.join(', ')}: continue with the same values, or start another run with --out`);
  }
  if (state.data.length !== data.length) {
    throw new IFError('INVALID_ARGUMENT', `--resume: the run was begun with ${state.data.length} pictures (${state.data.description}), now there are ${data.length} (${data.description}): the order of the pictures would differ; restore the data, or start another run with --out`);
  }
  onEvent({ type: 'status', message: `continuing after step ${state.step}` });
  return checkpoint;
}

/** The order of the class's pictures depends on their number. */
function checkPrior(checkpoint: Checkpoint | undefined, pictures: number | undefined): void {
  const before = checkpoint?.state.data.prior;
  if (before === undefined || before === pictures) return;
  throw new IFError('INVALID_ARGUMENT', `--resume: the run was begun with ${before} pictures of the class, now it would have ${pictures ?? 0}: restore their number, or start another run with --out`);
}

/** So does the order of the buckets on what is in them: a picture may have become readable, or another one. */
function checkBuckets(checkpoint: Checkpoint | undefined, perShape: Readonly<Record<string, number>> = {}): void {
  const before = checkpoint?.state.data.buckets;
  if (before === undefined || shapesText(before) === shapesText(perShape)) return;
  throw new IFError('INVALID_ARGUMENT', `--resume: the run was begun with buckets of ${shapesText(before)} pictures, now they are ${shapesText(perShape)}: restore the pictures, or start another run with --out`);
}

const PREVIEW_PICTURES = 4;

async function choosePreviews(config: RunConfig, model: TrainableModel, heldOut: Sample[], data: Dataset, training: Uint32Array, signal: AbortSignal | undefined): Promise<PreviewItem[]> {
  if (config.previews === false) return [];
  const { prompts } = config.previews;
  if (prompts && !model.noiser) return prompts.map((prompt) => ({ prompt, picture: undefined }));
  if (prompts) throw new IFError('INVALID_ARGUMENT', 'previews.prompts: an upscaling stage needs pictures as well: leave it out, captions and pictures of the validation are taken');
  const pictures = heldOut.length > 0 ? heldOut : await readPictures(data, training.slice(0, PREVIEW_PICTURES), config.size, signal);
  return pictures.slice(0, PREVIEW_PICTURES).map((picture) => ({ prompt: picture.caption, picture: model.noiser ? picture : undefined }));
}
