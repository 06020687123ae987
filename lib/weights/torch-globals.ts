// The only names that a torch archive may refer to, and what they mean here. Everything else is refused by name.
import { IFError } from '../errors.js';
import { elements, shapeText, type FileDType } from './file-dtype.js';
import { describePickle, OpaqueObject, PickleTuple, unpickle, type PickleGlobal, type PickleKey, type PickleValue } from './pickle.js';

/** The bytes that one or more tensors look at: entry `data/KEY` of the archive. */
export class StorageRef {
  constructor(readonly key: string, readonly dtype: FileDType, readonly size: number) {}
}

/** A tensor as torch stores it: a strided view of a storage (sizes, strides and offset in elements). */
export class TensorRef {
  constructor(
    readonly storage: StorageRef,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[],
  ) {}

  get dtype(): FileDType {
    return this.storage.dtype;
  }
}

/** Storage classes of torch and the type of their elements (torch/storage.py: _dtype_to_storage_type_map). */
export const STORAGES: Record<string, FileDType> = {
  DoubleStorage: 'f64', FloatStorage: 'f32', HalfStorage: 'f16', BFloat16Storage: 'bf16',
  LongStorage: 'i64', IntStorage: 'i32', ShortStorage: 'i16', CharStorage: 'i8', ByteStorage: 'u8', BoolStorage: 'bool',
};
const MOST_ELEMENTS = 2 ** 45; // so that counts of elements and bytes are exact
const DTYPES = ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool'];

/** Objects of training frameworks beside the weights: kept opaque, their content is not looked at. */
const OPAQUE = [
  // mmengine's message hub (diffengine): histories of losses as numpy arrays, their statistics by getattr(HistoryBuffer, 'mean')
  'mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype', '_codecs.encode',
  'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct',
  'numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar', 'numpy._core.numeric._frombuffer', 'numpy.core.numeric._frombuffer',
];
/** getattr is a name like any other here, but a file that asks for an attribute of anything else is up to no good. */
const GETATTR = ['__builtin__.getattr', 'builtins.getattr'];

class Storage implements PickleGlobal {
  constructor(readonly path: string, readonly dtype: FileDType) {}
}

const GLOBALS = new Map<string, PickleGlobal>();
const define = (path: string, call?: PickleGlobal['call']): void => {
  GLOBALS.set(path, call ? { path, call } : { path });
};
for (const [name, dtype] of Object.entries(STORAGES)) GLOBALS.set(`torch.${name}`, new Storage(`torch.${name}`, dtype));
for (const name of DTYPES) define(`torch.${name}`);
for (const path of OPAQUE) define(path, () => new OpaqueObject(path));
for (const path of GETATTR) define(path, historyStatistic);
define('collections.OrderedDict', orderedDict);
define('torch.Size', ([sizes], where) => new PickleTuple(integers(sizes, `${where}: torch.Size`)));
define('torch.device', () => new OpaqueObject('torch.device'));
define('torch._utils._rebuild_tensor_v2', rebuildTensor);
define('torch._utils._rebuild_parameter', rebuildParameter);

/**
 * Reads the `data.pkl` of a torch archive.
 * @returns dicts, lists and scalars, with a TensorRef for every tensor
 * @throws IFError `FILE_FORMAT`, `UNSUPPORTED` as unpickle
 */
export function unpickleTorch(bytes: Uint8Array, where: string): PickleValue {
  return unpickle(bytes, { where, resolve: (path) => GLOBALS.get(path), load: (id) => storage(id, where) });
}

function bad(where: string, what: string): IFError {
  return new IFError('FILE_FORMAT', `${where}: ${what}`);
}

/** A persistent id of torch.save: ('storage', type, key, location, number of elements). */
function storage(id: PickleValue, where: string): StorageRef {
  const [tag, type, key, , size] = id instanceof PickleTuple ? id.items : [];
  if (tag !== 'storage' || !(type instanceof Storage)) throw bad(where, `a persistent id that is no storage (${describePickle(type ?? id)})`);
  if (typeof key !== 'string' || !/^\d{1,10}$/.test(key)) throw bad(where, `a storage with the key ${describePickle(key ?? null)}, expected a number`); // it becomes a name in the archive
  return new StorageRef(key, type.dtype, count(size, `${where}: storage ${key}`));
}

/** (storage, offset, size, stride, requires_grad, backward hooks[, metadata]) */
function rebuildTensor(args: readonly PickleValue[], where: string): TensorRef {
  const [source, offset, size, stride] = args;
  if (!(source instanceof StorageRef)) throw bad(where, `a tensor without a storage (${describePickle(source ?? null)})`);
  const what = `${where}: a tensor of storage ${source.key}`;
  const shape = integers(size, what);
  if (!(elements(shape.filter((n) => n > 0)) <= MOST_ELEMENTS)) throw bad(what, `shape ${shapeText(shape)} is too large`);
  const strides = integers(stride, what);
  const start = count(offset, what);
  if (shape.length !== strides.length || shape.length > 64) throw bad(what, `${shape.length} sizes and ${strides.length} strides`);
  if (elements(shape) > source.size) throw bad(what, `shape ${shapeText(shape)} has more elements than its storage, ${source.size}`);
  const last = elements(shape) === 0 ? start - 1 : shape.reduce((at, n, i) => at + (n - 1) * strides[i]!, start);
  if (!(last < source.size)) throw bad(what, `shape ${shapeText(shape)} with strides ${shapeText(strides)} from ${start} on reaches element ${last} of ${source.size}`);
  return new TensorRef(source, start, shape, strides);
}

/** (tensor, requires_grad, backward hooks) */
function rebuildParameter(args: readonly PickleValue[], where: string): PickleValue {
  if (!(args[0] instanceof TensorRef)) throw bad(where, `a parameter without a tensor (${describePickle(args[0] ?? null)})`);
  return args[0];
}

/** Empty, or from one list of pairs. */
function orderedDict(args: readonly PickleValue[], where: string): Map<PickleKey, PickleValue> {
  const map = new Map<PickleKey, PickleValue>();
  const pairs = args[0] ?? [];
  if (!Array.isArray(pairs)) throw bad(where, `an OrderedDict from ${describePickle(pairs)}`);
  for (const pair of pairs) {
    const [key, value] = pair instanceof PickleTuple ? pair.items : (pair as PickleValue[]);
    if (key === undefined || value === undefined || (typeof key === 'object' && key !== null)) throw bad(where, 'an OrderedDict from what are no pairs');
    map.set(key, value);
  }
  return map;
}

function historyStatistic(args: readonly PickleValue[], where: string): OpaqueObject {
  const [object] = args;
  const path = typeof object === 'object' && object !== null && 'path' in object ? object.path : undefined;
  if (path !== OPAQUE[0]) throw new IFError('UNSUPPORTED', `${where}: it asks for an attribute of ${describePickle(object ?? null)}; the file is refused (nothing of it was run)`);
  return new OpaqueObject('getattr');
}

function count(value: PickleValue | undefined, where: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw bad(where, `expected a whole number from 0 on, got ${describePickle(value ?? null)}`);
  return value;
}

/** The items of a tuple or list of whole numbers. */
function integers(value: PickleValue | undefined, where: string): number[] {
  const items = value instanceof PickleTuple ? value.items : value;
  if (!Array.isArray(items)) throw bad(where, `expected sizes, got ${describePickle(value ?? null)}`);
  return (items as PickleValue[]).map((item) => count(item, where));
}
