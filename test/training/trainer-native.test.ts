// The native commands of training: a tiny model through accumulate, step, save and restore.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { addon, withSignal, type MicroBatch, type OptimizerStep, type TensorHandle, type TrainerHandle, type TrainerOptions, type TrainingSample } from '../../lib/addon.js';
import { parseT5Config, parseUNetConfig, readJson } from '../../lib/models/config.js';
import { expectIFError } from '../support/expect-error.js';
import { golden, readSafetensors } from '../support/safetensors.js';

const DEVICE = 'cpu:0';
const OPTIONS: TrainerOptions = { dtype: 'f32', precision: 'default', checkpointing: false, ema: true, lora: null };
const SIZE = 16;
const TOKENS = 5;
const folder = mkdtempSync(path.join(tmpdir(), 'trainer-'));
afterAll(() => rmSync(folder, { recursive: true }));

const json = (...parts: string[]): Promise<unknown> => readJson(golden(...parts));
const unetConfig = async (model: string): Promise<string> => JSON.stringify(parseUNetConfig(await json(model, 'unet', 'config.json'), model));
const t5Config = async (): Promise<string> => JSON.stringify(parseT5Config(await json('tiny-if-I', 'text_encoder', 'config.json'), 't5'));
const unetFile = (model: string): string => golden(model, 'unet', 'diffusion_pytorch_model.safetensors');

async function stageOne(options: Partial<TrainerOptions> = {}, device = DEVICE): Promise<TrainerHandle> {
  const trainer = await addon.trainerCreate(await unetConfig('tiny-if-I'), null, device, { ...OPTIONS, ...options });
  await addon.trainerLoad(trainer, [unetFile('tiny-if-I')], null, 0n);
  return trainer;
}

// ε-prediction at ᾱ = 0.5.
const sample = (index: number): TrainingSample => ({
  index, timestep: 100 + index, imageScale: Math.SQRT1_2, noiseScale: Math.SQRT1_2, noiseLevel: 250, lowResScale: 0.9, lowResNoiseScale: Math.sqrt(0.19),
  targetX0: 0, targetNoise: 1, weight: 1, variationalWeight: 0, sampleScale: Math.SQRT2, outputScale: -1, x0Coef: 0.5, xCoef: 0.5, trueLog: -3, minLog: -3, maxLog: -1, last: false,
});
const bytes = (length: number, seed: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * 37 + seed * 101 + (i >> 3)) & 255);
const textOf = (items: number, first: number): TensorHandle =>
  addon.tensorFromFloat32(Float32Array.from({ length: items * TOKENS * 64 }, (_, i) => Math.sin(i + first * TOKENS * 64)), [items, TOKENS, 64], DEVICE);

/** Samples [first, first + items) of one endless data set. */
function batch(first: number, items: number, of = items): MicroBatch {
  const pictures = Array.from({ length: items }, (_, i) => bytes(SIZE * SIZE * 3, first + i));
  return {
    images: Uint8Array.from(pictures.flatMap((p) => [...p])), height: SIZE, width: SIZE, lowRes: null, lowResHeight: 0, lowResWidth: 0,
    text: textOf(items, first), ids: null, mask: null, samples: pictures.map((_, i) => sample(first + i)),
    noise: { offset: 0, pyramidDiscount: 0, inputPerturbation: 0 }, seed: 7n, loss: 'mse', huberDelta: 1, gradientScale: 1 / of,
  };
}
const optimizer = (step: number): OptimizerStep => ({ step, lr: 1e-3, weightDecay: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, clipNorm: 1, emaDecay: 0.5, normLimit: 0 });
const mainTerm = (terms: Float32Array): number => (terms[0]! + terms[2]!) / 2;

describe('a trainer', () => {
  test('learns a batch, saves and restores bit for bit', async () => {
    const trainer = await stageOne();
    const info = addon.trainerInfo(trainer);
    expect(info.bytes).toBe(info.parameters * 4 * 5);
    const losses: number[] = [];
    for (let n = 1; n <= 6; n++) {
      const { terms, flops } = await addon.trainerAccumulate(trainer, batch(0, 2));
      expect(terms.length).toBe(4);
      expect(flops).toBeGreaterThan(1e6);
      losses.push(mainTerm(terms));
      const result = await addon.trainerStep(trainer, optimizer(n));
      expect(result.applied).toBe(true);
      expect(result.gradientNorm).toBeGreaterThan(0);
    }
    expect(losses[5]).toBeLessThan(losses[0]! * 0.9);

    const parts = ['unet', 'unet_ema', 'unet_moments'] as const;
    for (const part of parts) await addon.trainerSave(trainer, path.join(folder, part), part, 'f32', [['step', '6']]);
    expect(readdirSync(folder).sort()).toEqual([...parts].sort()); // no temporary file is left
    const again = await addon.trainerCreate(await unetConfig('tiny-if-I'), null, DEVICE, OPTIONS);
    for (const part of parts) await addon.trainerRestore(again, path.join(folder, part), part);
    for (const t of [trainer, again]) {
      await addon.trainerAccumulate(t, batch(2, 2));
      await addon.trainerStep(t, optimizer(7));
      await addon.trainerSave(t, path.join(folder, t === again ? 'b' : 'a'), 'unet', 'f32', []);
    }
    expect(readSafetensors(path.join(folder, 'b'))).toEqual(readSafetensors(path.join(folder, 'a')));
    const ema = await addon.trainerEvaluate(trainer, batch(0, 2), true);
    expect((await addon.trainerEvaluate(again, batch(0, 2), true)).terms).toEqual(ema.terms);
    expect((await addon.trainerEvaluate(trainer, batch(0, 2), false)).terms).not.toEqual(ema.terms);
    addon.dispose(trainer);
    await expectIFError('INVALID_ARGUMENT', () => addon.trainerInfo(trainer), /Trainer was disposed/);
  });

  test('two replicas of two samples are one of four', async () => {
    const one = await stageOne();
    const replicas = [await stageOne(), await stageOne({}, 'cpu:1')];
    await addon.trainerAccumulate(one, batch(0, 4));
    await Promise.all(replicas.map((replica, i) => addon.trainerAccumulate(replica, batch(2 * i, 2, 4))));
    await addon.trainerReduce(replicas);
    const norms = await Promise.all([one, ...replicas].map((t) => addon.trainerStep(t, optimizer(1))));
    expect(norms[1]).toEqual(norms[0]);
    expect(norms[2]).toEqual(norms[0]);
    const after = await Promise.all([one, ...replicas].map((t) => addon.trainerEvaluate(t, batch(0, 2), false)));
    expect(after[1]).toEqual(after[0]);
    expect(after[2]).toEqual(after[0]);
    await expectIFError('INVALID_ARGUMENT', () => addon.trainerReduce([one, one]), /given twice/);
  });

  test('a copy draws what the saved file draws', async () => {
    const trainer = await stageOne();
    await addon.trainerAccumulate(trainer, batch(0, 2));
    await addon.trainerStep(trainer, optimizer(1));
    const file = path.join(folder, 'diffusion_pytorch_model.safetensors');
    await addon.trainerSave(trainer, file, 'unet', 'f32', []);
    expect([...readSafetensors(file).keys()].sort()).toEqual([...readSafetensors(unetFile('tiny-if-I')).keys()].sort());
    const loaded = await addon.unetCreate(await unetConfig('tiny-if-I'), 'f32', DEVICE, 'default');
    await addon.unetLoad(loaded, [file]);
    const copy = await addon.trainerUnet(trainer, 'f32', false);
    const [a, b] = await Promise.all([loaded, copy].map(async (unet) => {
      const cond = await addon.unetPrepare(unet, textOf(1, 0), null);
      const x = addon.tensorFromFloat32(new Float32Array(SIZE * SIZE * 3).fill(0.5), [1, SIZE, SIZE, 3], DEVICE);
      return addon.tensorToFloat32(await addon.unetForward(unet, x, [500], cond, null));
    }));
    expect(b).toEqual(a);
  });

  test('stage II with its text encoder from scratch', async () => {
    const trainer = await addon.trainerCreate(await unetConfig('tiny-if-II'), await t5Config(), DEVICE, { ...OPTIONS, checkpointing: true });
    const input: MicroBatch = {
      ...batch(0, 2), text: null, ids: Int32Array.from([5, 6, 1, 0, 0, 9, 8, 7, 6, 1]), mask: Int32Array.from([1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
      lowRes: bytes(2 * 4 * 4 * 3, 3), lowResHeight: 4, lowResWidth: 4,
    };
    input.samples.forEach((s) => (s.variationalWeight = 1e-3));
    await expectIFError('INVALID_ARGUMENT', () => addon.trainerAccumulate(trainer, input), /no parameters/);
    await addon.trainerInitialise(trainer, 1n);
    const { terms } = await addon.trainerAccumulate(trainer, input);
    expect(terms[1]).toBeGreaterThan(0);
    expect((await addon.trainerStep(trainer, optimizer(1))).applied).toBe(true);
    const file = path.join(folder, 't5');
    await addon.trainerSave(trainer, file, 't5', 'f32', []);
    const t5 = await addon.t5Create(await t5Config(), 'bf16', DEVICE, false);
    await addon.t5Load(t5, [file]);
    const encode = async (model: typeof t5): Promise<Float32Array> => addon.tensorToFloat32(await addon.t5Forward(model, input.ids!, input.mask!, 2));
    expect(await encode(await addon.trainerT5(trainer, 'bf16', false))).toEqual(await encode(t5));
    await expectIFError('INVALID_ARGUMENT', () => addon.trainerAccumulate(trainer, batch(0, 2)), /low_res must be/);
    await expectIFError('INVALID_ARGUMENT', () => addon.trainerAccumulate(trainer, { ...input, ids: null }), /ids and mask/);
  });
});

describe('what is refused', () => {
  test('a step beyond the limit changes nothing', async () => {
    const trainer = await stageOne();
    await addon.trainerAccumulate(trainer, batch(0, 2));
    const before = await addon.trainerEvaluate(trainer, batch(0, 2), false);
    expect((await addon.trainerStep(trainer, { ...optimizer(1), normLimit: 1e-9 })).applied).toBe(false);
    expect(await addon.trainerEvaluate(trainer, batch(0, 2), false)).toEqual(before);
    expect((await addon.trainerStep(trainer, optimizer(1))).gradientNorm).toBe(0); // the gradients are gone
  });

  test('a cancelled micro-batch leaves no gradients', async () => {
    const trainer = await stageOne();
    const controller = new AbortController();
    const running = withSignal(controller.signal, (token) => addon.trainerAccumulate(trainer, { ...batch(0, 2), images: bytes(2 * 128 * 128 * 3, 0), height: 128, width: 128 }, token));
    setTimeout(() => controller.abort(), 20);
    await expectIFError('CANCELLED', () => running);
    expect((await addon.trainerStep(trainer, optimizer(1))).gradientNorm).toBe(0);
    const other = await stageOne();
    const after = await Promise.all([trainer, other].map((t) => addon.trainerEvaluate(t, batch(0, 2), false)));
    expect(mainTerm(after[0]!.terms)).toBeCloseTo(mainTerm(after[1]!.terms), 3); // one step of weight decay alone
  });

  test('wrong arguments', async () => {
    const config = await unetConfig('tiny-if-I');
    const trainer = await addon.trainerCreate(config, null, DEVICE, { ...OPTIONS, ema: false });
    const refused = (action: () => unknown, part: RegExp): Promise<void> => expectIFError('INVALID_ARGUMENT', action, part);
    await refused(() => addon.trainerAccumulate(trainer, batch(0, 2)), /no parameters/);
    await addon.trainerLoad(trainer, [unetFile('tiny-if-I')], null, 0n);
    await refused(() => addon.trainerAccumulate(addon.cancelToken() as never, batch(0, 2)), /expected a Trainer handle/);
    await refused(() => addon.trainerAccumulate(trainer, { ...batch(0, 2), images: bytes(3, 0) }), /images: \(2, 16, 16, 3\) needs 1536 bytes, got 3/);
    await refused(() => addon.trainerAccumulate(trainer, { ...batch(0, 2), samples: [] }), /samples: expected an array/);
    await refused(() => addon.trainerAccumulate(trainer, { ...batch(0, 2), samples: [sample(0), { ...sample(1), weight: NaN }] }), /weight: expected a finite number/);
    await refused(() => addon.trainerAccumulate(trainer, { ...batch(0, 2), text: textOf(3, 0) }), /text must be \(2, T, 64\)/);
    await refused(() => addon.trainerAccumulate(trainer, { ...batch(0, 2), loss: 'l1' as never }), /loss: expected one of mse, huber/);
    await refused(() => addon.trainerStep(trainer, { ...optimizer(1), beta2: 1 }), /beta2 must be at least 0 and less than 1, got 1/);
    await refused(() => addon.trainerEvaluate(trainer, batch(0, 2), true), /no averaged weights/);
    await refused(() => addon.trainerSave(trainer, path.join(folder, 'x'), 'unet_ema', 'f32', []), /no averaged weights/);
    await refused(() => addon.trainerSave(trainer, path.join(folder, 'x'), 't5', 'f32', []), /text encoder is not trained/);
    await refused(() => addon.trainerCreate(config, null, DEVICE, { ...OPTIONS, dtype: 'f16' as never }), /options.dtype: expected f32 or bf16/);
    await refused(() => addon.trainerLoad(trainer, [unetFile('tiny-if-I')], [golden('tiny-if-I', 'text_encoder', 'model.safetensors')], 0n), /must not be given/);
    await expectIFError('NOT_FOUND', () => addon.trainerRestore(trainer, path.join(folder, 'missing'), 'unet'));
    await expectIFError('WEIGHTS', () => addon.trainerRestore(trainer, unetFile('tiny-if-I'), 'unet_moments'), /not a file of moments/);
  });

  test('a plan is larger with moments and smaller with checkpointing', async () => {
    const config = await unetConfig('tiny-if-I');
    const plan = (checkpointing: boolean): Promise<{ weightBytes: number; activationBytes: number; flops: number }> =>
      addon.planTrainer(config, null, { ...OPTIONS, checkpointing }, 2, 64, 64, 77, 'cpu');
    const [kept, computedAgain] = [await plan(false), await plan(true)];
    const trainer = await addon.trainerCreate(config, null, DEVICE, OPTIONS);
    expect(kept.weightBytes).toBe(addon.trainerInfo(trainer).bytes);
    expect(computedAgain.activationBytes).toBeLessThan(kept.activationBytes * 0.7);
    expect(computedAgain.flops).toBeGreaterThan(kept.flops * 1.2);
  });
});
