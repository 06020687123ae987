// DreamBooth: the pictures of the class are drawn by the model itself where they are missing.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { readPngText, writePng } from '../../lib/image.js';
import { Cascade } from '../../lib/pipelines/cascade.js';
import { imageAt } from '../../lib/tensor.js';
import type { TrainingConfig } from '../../lib/training/config.js';
import type { TrainingEvent } from '../../lib/training/events.js';
import { resolveConfig } from '../../lib/training/resolve-config.js';
import { train, type TrainOptions } from '../../lib/training/trainer.js';
import { expectIFError } from '../support/expect-error.js';
import { installFakeTrainer, type FakeState } from '../support/fake-trainer.js';
import { plain, temporaryFolder } from '../support/pictures.js';
import { golden } from '../support/safetensors.js';

const PROMPT = 'a photo of a dog';
const STEPS = 2;
let events: TrainingEvent[] = [];

function fake(): FakeState {
  const { state, restore } = installFakeTrainer();
  onTestFinished(restore);
  return state;
}

/** A folder with three pictures of a subject, in which runs of two steps are done. */
class Room {
  private constructor(readonly folder: string) {}
  static async make(): Promise<Room> {
    const room = new Room(await temporaryFolder());
    mkdirSync(path.join(room.folder, 'dog'));
    for (let i = 0; i < 3; i++) await plain(40, 32, [20 * i, 9, 99]).png().toFile(path.join(room.folder, 'dog', `${i}.png`));
    return room;
  }
  get class(): string {
    return path.join(this.folder, 'class');
  }
  get drawn(): string[] {
    return readdirSync(this.class).sort();
  }
  async run(pictures: number, change: Partial<TrainingConfig> = {}, generate: object = {}, options: TrainOptions = {}): Promise<void> {
    events = [];
    const out = change.out ?? path.join(this.folder, 'run');
    const config = resolveConfig({
      model: { folder: golden('tiny-if-I') }, data: { type: 'folder', path: path.join(this.folder, 'dog'), caption: 'a photo of sks dog' }, steps: 2, batchSize: 4, seed: 7, threads: 2,
      priorPreservation: { data: { type: 'folder', path: this.class, caption: PROMPT }, generate: { pictures, timesteps: STEPS, ...generate } }, previews: false, validation: false, dtype: 'f32', ...change,
    }, 'test', out);
    await train(config, { cacheDir: null, onEvent: (event) => events.push(event), ...options });
    rmSync(out, { recursive: true, force: true });
  }
}

describe('stage I', () => {
  test('what if-sample draws with the prompt and the seed that the file names', async () => {
    const state = fake();
    const room = await Room.make();
    await room.run(3);
    expect(room.drawn).toEqual(['class-000000.png', 'class-000001.png', 'class-000002.png']);
    expect(state.batches.flatMap(({ batch }) => batch.samples.map(({ weight }) => weight))).toEqual(new Array(8).fill(1));
    const cascade = await Cascade.load({ stage1: golden('tiny-if-I'), dtype: 'f32', cacheDir: null });
    for (const [i, name] of room.drawn.entries()) {
      const file = path.join(room.class, name);
      const text = await readPngText(file);
      expect(text).toMatchObject({ prompt: PROMPT, seed: String(7 + i) });
      expect(JSON.parse(text['settings']!)).toMatchObject({ dtype: 'f32', stages: [{ timesteps: STEPS, guidance: 7 }] });
      const { images } = await cascade.generate({ prompt: PROMPT, seed: BigInt(text['seed']!), timesteps: [STEPS] });
      const again = path.join(room.folder, 'again.png');
      await writePng(again, imageAt(images, 0), text);
      expect(readFileSync(again).equals(readFileSync(file))).toBe(true);
    }
  });

  test('only what is missing; other pictures in the folder count', async () => {
    fake();
    const room = await Room.make();
    await room.run(4);
    const before = new Map(room.drawn.map((name) => [name, readFileSync(path.join(room.class, name))]));
    for (const name of ['class-000001.png', 'class-000003.png']) rmSync(path.join(room.class, name));
    await plain(9, 9, [1, 2, 3]).png().toFile(path.join(room.class, 'photo.png'));
    writeFileSync(path.join(room.class, 'notes.txt'), 'no picture');
    await room.run(4);
    expect(room.drawn).toEqual(['class-000000.png', 'class-000001.png', 'class-000002.png', 'notes.txt', 'photo.png']);
    for (const name of room.drawn.slice(0, 3)) expect(readFileSync(path.join(room.class, name)).equals(before.get(name)!)).toBe(true);
    await room.run(2); // more than enough: nothing is drawn, nothing is removed
    expect(events.some((event) => event.type === 'load' && event.component.startsWith('drawing class pictures'))).toBe(false);
    expect(room.drawn.length).toBe(5);
    writeFileSync(path.join(room.class, 'class-0000007.png'), readFileSync(path.join(room.class, 'class-000000.png'))); // of another tool
    await room.run(6);
    expect(room.drawn.length).toBe(7);
  });

  test('an interruption leaves whole pictures, and the next run draws the rest', async () => {
    fake();
    const room = await Room.make();
    const controller = new AbortController();
    await expectIFError('CANCELLED', () => room.run(5, {}, {}, {
      signal: controller.signal,
      onEvent: (event) => { if (event.type === 'load' && event.component === 'drawing class pictures' && event.done === 2) controller.abort(); },
    }));
    expect(room.drawn).toEqual(['class-000000.png', 'class-000001.png']);
    const progress: number[] = [];
    await room.run(5, {}, {}, { onEvent: (event) => { if (event.type === 'load' && event.component === 'drawing class pictures') progress.push(event.done); } });
    expect(progress).toEqual([1, 2, 3]);
    expect(room.drawn.length).toBe(5);
  });

  test('pictures of another prompt are not mixed in', async () => {
    fake();
    const room = await Room.make();
    await room.run(1);
    const cat: Partial<TrainingConfig> = { priorPreservation: { data: { type: 'folder', path: room.class, caption: 'a photo of a cat' }, generate: { pictures: 2, timesteps: STEPS } } };
    await expectIFError('INVALID_ARGUMENT', () => room.run(2, cat), /class-000000\.png was drawn for "a photo of a dog", not for "a photo of a cat": remove/);
    expect(room.drawn.length).toBe(1);
  });

  test('nor are those of the stage before', async () => {
    fake();
    const room = await Room.make();
    await room.run(1);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, { model: { folder: golden('tiny-if-II') }, lowRes: { factor: 2 } }, { stage1: { folder: golden('tiny-if-I') } }), /class-000000\.png was drawn with 32 pixels a side, the run trains on 64: remove/);
  });

  test('a run goes on with the same number of them', async () => {
    fake();
    const room = await Room.make();
    const out = path.join(room.folder, 'run');
    const controller = new AbortController();
    const onEvent = (event: TrainingEvent): void => { if (event.type === 'step') controller.abort(); };
    await expectIFError('CANCELLED', () => room.run(2, {}, {}, { onEvent, signal: controller.signal }));
    await plain(9, 9, [1, 2, 3]).png().toFile(path.join(room.class, 'photo.png'));
    await expectIFError('INVALID_ARGUMENT', () => room.run(2, { out }, {}, { resume: true }), /begun with 2 pictures of the class, now it would have 3/);
    rmSync(path.join(room.class, 'photo.png'));
    await expectIFError('INVALID_ARGUMENT', () => room.run(4, { out }, {}, { resume: true }), /begun with 2 pictures of the class, now it would have 4/);
    expect(room.drawn.length).toBe(2); // refused before any is drawn
    await room.run(1, { out }, {}, { resume: true }); // what is there is enough
  });

  test('refused before anything is drawn', async () => {
    fake();
    const room = await Room.make();
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, { model: { folder: golden('tiny-if-I'), fromScratch: true } }), /a model from scratch cannot draw the class/);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, {}, { stage1: { folder: golden('tiny-if-I') } }), /stage1 is for a model that is an upscaling stage/);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, {}, { timesteps: 5000 }), /timesteps/);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, { model: { folder: golden('tiny-if-II') } }), /set generate\.stage1/);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, { model: { folder: golden('tiny-if-II') } }, { stage1: { folder: golden('tiny-if-II') } }), /is an upscaling stage; give a stage I/);
    await expectIFError('INVALID_ARGUMENT', () => room.run(1, { model: { folder: golden('tiny-if-II') }, stage: 3 }, { stage1: { folder: golden('tiny-if-I') } }), /stages I and II only/);
    writeFileSync(room.class, 'a file');
    await expectIFError('INVALID_ARGUMENT', () => room.run(1), /it is a file, expected a folder/);
  });
});

describe('stage II', () => {
  test('a stage I draws first; the same as the cascade of both', async () => {
    fake();
    const room = await Room.make();
    await room.run(2, { model: { folder: golden('tiny-if-II') }, lowRes: { factor: 2 } }, { stage1: { folder: golden('tiny-if-I') } });
    const cascade = await Cascade.load({ stage1: golden('tiny-if-I'), stage2: golden('tiny-if-II'), dtype: 'f32', cacheDir: null });
    for (const [i, name] of room.drawn.entries()) {
      const text = await readPngText(path.join(room.class, name));
      const { images } = await cascade.generate({ prompt: PROMPT, seed: 7 + i, timesteps: [STEPS, STEPS] });
      expect(images.shape).toEqual([1, 3, 64, 64]);
      await writePng(path.join(room.folder, 'again.png'), imageAt(images, 0), text);
      expect(readFileSync(path.join(room.folder, 'again.png')).equals(readFileSync(path.join(room.class, name)))).toBe(true);
    }
  });
});
