import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { TorchArchive } from '../../lib/weights/torch-archive.js';
import { OpaqueObject } from '../../lib/weights/pickle.js';
import { TensorRef } from '../../lib/weights/torch-globals.js';
import { writeStateDict } from '../../lib/weights/torch-archive-writer.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';
import { pickledDict, PickleStream, torchFile, zipFile, type TestEntry } from '../support/torch-file.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-archive-')); });
afterEach(() => rmSync(dir, { recursive: true }));

function put(bytes: Uint8Array, name = 'x.pt'): string {
  writeFileSync(path.join(dir, name), bytes);
  return path.join(dir, name);
}
/** Opens, gives the state dict and reads every tensor of it, as the converter does. */
async function readAll(file: string, keys: string[] = []): Promise<Map<string, { dtype: string; shape: readonly number[]; bytes: string }>> {
  const archive = await TorchArchive.open(file);
  try {
    const out = new Map<string, { dtype: string; shape: readonly number[]; bytes: string }>();
    for (const [name, tensor] of archive.stateDict(keys)) out.set(name, { dtype: tensor.dtype, shape: tensor.shape, bytes: (await archive.read(tensor)).toString('hex') });
    return out;
  } finally {
    await archive.close();
  }
}
const floats = (...values: number[]): Buffer => Buffer.from(Float32Array.from(values).buffer);
const f32 = (size: number, shape: readonly number[], stride: readonly number[], more: object = {}) => (p: PickleStream) => p.tensor('0', { size, shape, stride, ...more });

describe('archives of torch.save', () => {
  const recorded = JSON.parse(readFileSync(golden('torch', 'types.json'), 'utf8')) as Record<string, object>;

  test.each(['types.pt', 'deflated.pt'])('%s: every type, and strided, shared and empty tensors', async (name) => {
    const read = await readAll(golden('torch', name));
    expect(Object.fromEntries(read)).toEqual(recorded);
    expect(read.size).toBe(21);
  });

  test.each([3, 4, 5])('pickle protocol %i', async (protocol) => {
    const read = await readAll(golden('torch', `protocol${protocol}.pt`));
    expect([...read.keys()]).toEqual(['a', 'b']);
    expect(read.get('a')!.bytes).toBe((recorded['parameter'] as { bytes: string }).bytes);
  });

  test.each(['I', 'II'])('a checkpoint of the original IF code, %s', async (stage) => {
    const archive = await TorchArchive.open(golden('original', stage, 'pytorch_model.bin'));
    const tensors = archive.stateDict();
    expect(tensors.size).toBe(stage === 'I' ? 173 : 219);
    expect(tensors.get('input_blocks.0.0.weight')).toMatchObject({ dtype: 'f16', shape: [32, stage === 'I' ? 3 : 6, 3, 3] });
    await archive.close();
  });

  test('mmengine: the weights are read, what is beside them stays opaque', async () => {
    const archive = await TorchArchive.open(golden('torch', 'message_hub.pth'));
    const root = archive.root as Map<string, Map<string, Map<string, unknown>>>;
    expect([...root.keys()]).toEqual(['meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers']);
    expect(root.get('message_hub')!.get('log_scalars')!.get('train/loss')).toBeInstanceOf(OpaqueObject);
    expect(archive.stateDict(['state_dict']).get('unet.conv_in.bias')).toBeInstanceOf(TensorRef);
    await archive.close();
    await expectIFError('FILE_FORMAT', () => readAll(golden('torch', 'message_hub.pth')), '"meta" is a dict, expected a tensor');
  });

  test('what it cannot read is refused with the reason', async () => {
    await expectIFError('UNSUPPORTED', () => readAll(golden('torch', 'legacy.pt')), 'before version 1.6', 'save it again');
    await expectIFError('UNSUPPORTED', () => readAll(golden('torch', 'module.pt')), 'torch.nn.modules.linear.Linear', 'nothing of it was run');
    await expectIFError('FILE_FORMAT', () => readAll(golden('tiny-if-I', 'unet', 'diffusion_pytorch_model.safetensors')), 'not a torch archive');
    await expectIFError('NOT_FOUND', () => readAll(path.join(dir, 'none.pt')), 'no such file');
    await expectIFError('FILE_FORMAT', () => readAll(dir), 'folder');
    await expectIFError('FILE_FORMAT', () => readAll(put(Buffer.alloc(0))), 'not a torch archive');
    const scripted = torchFile(pickledDict({}), {}, [{ name: 'archive/constants.pkl', bytes: Buffer.alloc(4) }]);
    await expectIFError('UNSUPPORTED', () => readAll(put(scripted)), 'TorchScript');
    const big = torchFile(pickledDict({}), {}, [{ name: 'archive/byteorder', bytes: Buffer.from('big') }]);
    await expectIFError('UNSUPPORTED', () => readAll(put(big)), 'big-endian');
    await expectIFError('FILE_FORMAT', () => readAll(put(zipFile([{ name: 'readme.txt', bytes: Buffer.from('x') }]))), 'no NAME/data.pkl');
  });

  test('written and read again', async () => {
    const file = path.join(dir, 'pytorch_model.bin');
    const data = { half: Buffer.from('00112233', 'hex'), 'a.b': floats(1, 2, 3, 4, 5, 6), scalar: Buffer.from('0100000000000000', 'hex'), empty: Buffer.alloc(0) };
    const tensors = [
      { name: 'half', dtype: 'f16', shape: [2], read: async () => ({ bytes: data.half, dtype: 'f16' }) },
      { name: 'a.b', dtype: 'f32', shape: [2, 3], read: async () => ({ bytes: data['a.b'], dtype: 'f32' }) },
      { name: 'scalar', dtype: 'i64', shape: [], read: async () => ({ bytes: data.scalar, dtype: 'i64' }) },
      { name: 'empty', dtype: 'f32', shape: [0, 3], read: async () => ({ bytes: data.empty, dtype: 'f32' }) },
    ] as const;
    await writeStateDict(file, tensors);
    const read = await readAll(file);
    expect([...read]).toEqual(tensors.map(({ name, dtype, shape }) => [name, { dtype, shape, bytes: data[name].toString('hex') }]));
    const raw = readFileSync(file);
    expect(raw.indexOf(data['a.b']) % 64).toBe(0); // as torch aligns it
    await expectIFError('UNSUPPORTED', () => writeStateDict(file, [{ ...tensors[0], dtype: 'f8_e4m3' }]), 'f8_e4m3');
    await expectIFError('UNSUPPORTED', () => writeStateDict(file, [{ ...tensors[0], dtype: 'bf16' }]), '"half" is f16');
    expect((await readAll(file)).size).toBe(4); // the old file is kept
  });
});

describe('pickle streams that are up to no good', () => {
  const refused = (code: 'UNSUPPORTED' | 'FILE_FORMAT', pickle: Buffer, ...parts: (string | RegExp)[]): Promise<void> =>
    expectIFError(code, () => readAll(put(torchFile(pickle, { 0: floats(1, 2, 3, 4) }))), ...parts);
  const stream = (protocol?: number): PickleStream => new PickleStream(protocol);

  test.each([
    ['os', 'system'], ['posix', 'system'], ['builtins', 'eval'], ['__builtin__', 'exec'], ['subprocess', 'Popen'], ['torch', 'load'],
    ['torch._utils', '_rebuild_tensor_v2.__globals__'], ['torch.serialization', 'load'],
  ])('%s.%s is refused by name', async (module, name) => {
    await refused('UNSUPPORTED', stream().global(module, name).mark().text('touch pwned').tuple().reduce().stop(), `${module}.${name}`);
  });
  test('the same by STACK_GLOBAL', () => refused('UNSUPPORTED', stream(4).text('os').text('system').raw(0x93).stop(), 'os.system', 'nothing of it was run'));
  test('a global whose name is built by other opcodes', () => refused('FILE_FORMAT', stream(4).int(1).text('system').raw(0x93).stop(), 'name is not text'));
  test('getattr of something else', async () => {
    await refused('UNSUPPORTED', stream().global('builtins', 'getattr').mark().global('torch._utils', '_rebuild_tensor_v2').text('__globals__').tuple().reduce().stop(), 'attribute of a torch._utils._rebuild_tensor_v2');
    await refused('UNSUPPORTED', stream().global('builtins', 'getattr').mark().text('x').text('__class__').tuple().reduce().stop(), 'attribute of the text "x"');
  });
  test('calls of what is no function', async () => {
    await refused('UNSUPPORTED', stream().global('torch', 'FloatStorage').emptyTuple().reduce().stop(), 'a torch.FloatStorage is called');
    await refused('UNSUPPORTED', stream().global('torch', 'float32').emptyTuple().raw(0x81).stop(), 'a torch.float32 is made');
    await refused('UNSUPPORTED', stream().text('os.system').mark().text('ls').tuple().reduce().stop(), 'is called');
    await refused('UNSUPPORTED', stream().emptyDict().emptyTuple().reduce().stop(), 'a dict is called');
    await refused('UNSUPPORTED', stream(4).text('x').emptyTuple().emptyDict().raw(0x92).stop(), 'is made');
  });
  test.each([[0x69, 'INST'], [0x6f, 'OBJ'], [0x82, 'EXT1'], [0x50, 'PERSID'], [0x97, 'NEXT_BUFFER'], [0x49, '0x49'], [0xff, '0xff']])('opcode %i', (opcode, name) =>
    refused('UNSUPPORTED', stream().raw(opcode).stop(), `opcode ${name}`));
  test('protocols 0, 1 and 6', async () => {
    await refused('FILE_FORMAT', Buffer.from('cos\nsystem\n(S\'ls\'\ntR.'), 'protocol 2 to 5');
    await refused('FILE_FORMAT', stream(6).emptyDict().stop(), 'protocol 2 to 5');
  });
  test('attributes set on tensors and lists', async () => {
    await refused('FILE_FORMAT', pickledDict({ a: (p) => f32(4, [4], [1])(p).emptyDict().build() }), 'attributes for an object');
    await refused('FILE_FORMAT', stream().raw(0x5d).emptyDict().build().stop(), 'attributes for a list');
  });
  test('streams that do not add up', async () => {
    await refused('FILE_FORMAT', stream().stop(), 'before all objects are complete');
    await refused('FILE_FORMAT', stream().emptyDict().mark().stop(), 'before all objects are complete');
    await refused('FILE_FORMAT', stream().emptyDict().append(Buffer.from('..')).stop(), 'after its end');
    await refused('FILE_FORMAT', stream().emptyDict().stop().subarray(0, 3), 'cut off');
    await refused('FILE_FORMAT', stream().append(Buffer.from('X\xff\xff\xff\x7fab', 'latin1')).stop(), 'cut off');
    await refused('FILE_FORMAT', stream(4).append(Buffer.from('8dffffffffffffff7f', 'hex')).stop(), 'cut off');
    await refused('FILE_FORMAT', stream(4).append(Buffer.from('95ffffffff00000000', 'hex')).emptyDict().stop(), 'cut off');
    await refused('FILE_FORMAT', stream().reduce().stop(), 'an object is missing');
    await refused('FILE_FORMAT', stream().setItems().stop(), 'no mark');
    await refused('FILE_FORMAT', stream().get(7).stop(), 'memo 7 is empty');
    await refused('FILE_FORMAT', stream().emptyDict().mark().text('a').setItems().stop(), 'a key without a value');
    await refused('FILE_FORMAT', stream().emptyDict().mark().emptyDict().text('a').setItems().stop(), 'a dict as a key');
    await refused('FILE_FORMAT', stream().append(Buffer.from('X\x01\x00\x00\x00\xff', 'latin1')).stop(), 'not UTF-8');
    await refused('FILE_FORMAT', stream().append(Buffer.from('c')).append(Buffer.from('torch')).stop(), 'a name without an end');
    await refused('FILE_FORMAT', stream().append(Buffer.from([0x8a, 200])).append(Buffer.alloc(200, 0x7f)).stop(), 'an integer of 200 bytes');
  });
  test('deep nesting and a long memo are bounded', async () => {
    const deep = stream().append(Buffer.alloc(300_000, 0x5d)).append(Buffer.alloc(299_999, 0x61)).stop(); // [[[…]]]
    await refused('FILE_FORMAT', deep, 'expected a state dict, got a list');
    await refused('FILE_FORMAT', stream(4).emptyDict().append(Buffer.alloc(3_000_000, 0x94)).stop(), 'more than 2000000 steps');
    await refused('FILE_FORMAT', stream().append(Buffer.alloc(3_000_000, 0x28)).stop(), 'more than 2000000 steps');
  });
  test('a memo that doubles forty times costs forty steps', async () => {
    const bomb = stream().text('x').put(0);
    for (let i = 0; i < 40; i++) bomb.raw(0x30).get(i).get(i).raw(0x86).put(i + 1); // (x, x), ((x, x), (x, x)), …
    await refused('FILE_FORMAT', bomb.stop(), 'expected a state dict, got a tuple');
    await refused('FILE_FORMAT', stream().emptyDict().put(0).mark().text('self').get(0).setItems().stop(), '"self" is a dict, expected a tensor');
  });
  test('a large data.pkl is not unpickled', async () => {
    const entry: TestEntry = { name: 'archive/data.pkl', bytes: Buffer.alloc(65 * 2 ** 20), deflate: true };
    await expectIFError('FILE_FORMAT', () => readAll(put(zipFile([entry]))), 'a few hundred thousand');
  });
});

describe('tensors that lie', () => {
  const refused = (item: (p: PickleStream) => PickleStream, ...parts: (string | RegExp)[]): Promise<void> =>
    expectIFError('FILE_FORMAT', () => readAll(put(torchFile(pickledDict({ a: item }), { 0: floats(1, 2, 3, 4) }))), ...parts);

  test('about their storage', async () => {
    expect((await readAll(put(torchFile(pickledDict({ a: f32(4, [2, 2], [1, 2]) }), { 0: floats(1, 2, 3, 4) })))).get('a')!.bytes).toBe(floats(1, 3, 2, 4).toString('hex'));
    await refused(f32(4, [5], [1]), 'more elements than its storage');
    await refused(f32(4, [2, 2], [3, 1]), /reaches element 4 of 4/);
    await refused(f32(4, [2], [1], { offset: 3 }), /reaches element 4 of 4/);
    await refused(f32(4, [2], [2 ** 52]), /reaches element/);
    await refused(f32(8, [8], [1]), 'storage 0 has 16 bytes, 8 elements of f32 need 32');
    await refused((p) => p.tensor('1', { size: 4, shape: [4], stride: [1] }), 'storage 1 is missing');
    await refused((p) => p.tensor('0', { storage: 'DoubleStorage', size: 4, shape: [4], stride: [1] }), 'need 32');
    await refused((p) => p.tensor('../../../etc/passwd', { size: 4, shape: [4], stride: [1] }), 'expected a number');
  });
  test('about sizes that no memory has', async () => {
    await refused(f32(1, [2 ** 40], [0]), 'more elements than its storage');
    await refused((p) => p.tensor('0', { size: 2 ** 40, shape: [2 ** 40], stride: [1] }), 'storage 0 has 16 bytes');
    await refused((p) => p.tensor('0', { size: 2 ** 50, shape: [2 ** 25, 2 ** 25], stride: [2 ** 25, 1] }), 'too large');
    await refused((p) => p.tensor('0', { size: 4, shape: [2n ** 62n], stride: [1] }), 'whole number');
    await refused((p) => p.tensor('0', { size: 4, shape: [-1], stride: [1] }), 'whole number');
    await refused((p) => p.tensor('0', { size: 4, shape: [2], stride: [-1], offset: 1 }), 'whole number');
    await refused((p) => p.tensor('0', { size: -4, shape: [2], stride: [1] }), 'whole number');
    await refused((p) => p.tensor('0', { size: 4, shape: [2, 2], stride: [1] }), '2 sizes and 1 strides');
  });
  test('about what they are', async () => {
    await refused((p) => p.text('x'), '"a" is the text "x", expected a tensor');
    await refused((p) => p.mark().text('storage').text('0').tuple().raw(0x51), 'no storage');
    await refused((p) => p.text('storage').raw(0x51), 'no storage');
    await refused((p) => p.global('torch._utils', '_rebuild_parameter').mark().text('x').tuple().reduce(), 'a parameter without a tensor');
    await refused((p) => p.global('torch._utils', '_rebuild_tensor_v2').emptyTuple().reduce(), 'a tensor without a storage');
    await refused((p) => p.global('collections', 'OrderedDict').mark().text('x').tuple().reduce(), 'an OrderedDict from the text');
  });
});
