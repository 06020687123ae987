import { IFError } from '../errors.js';
import { describeJson, isJsonObject, type JsonObject } from '../models/json.js';
import { nearestName } from '../suggest.js';

/** Where a value stands, for messages: the file, and the keys that lead to it. */
export class Place {
  constructor(readonly where: string, readonly path: readonly string[] = []) {}

  at(key: string): Place {
    return new Place(this.where, [...this.path, key]);
  }

  fail(message: string): never {
    throw new IFError('INVALID_ARGUMENT', `${this.where}: ${this.path.length ? `${this.path.join('.')}: ` : ''}${message}`);
  }

  wrong(expected: string, value: unknown): never {
    const got = value === undefined ? 'nothing (it is required)' : typeof value === 'function' ? 'a function' : describeJson(value);
    this.fail(`expected ${expected}, got ${got}`);
  }

  unknownKey(key: string, known: readonly string[]): never {
    const name = [...this.path, key].join('.');
    const meant = nearestName(key, known);
    throw new IFError('INVALID_ARGUMENT', `${this.where}: unknown key "${name}"${meant ? `; did you mean "${meant}"?` : ''} (known: ${known.join(', ')})`);
  }
}

/** What a value of a configuration may be. */
export interface Schema<T> {
  /**
   * The checked value with every default filled in; undefined gives the default of the whole.
   * @throws IFError `INVALID_ARGUMENT` naming the place, what is expected and what came
   */
  parse(value: unknown, place: Place): T;
  /**
   * A copy of `value` (not checked) in which the value under `keys` is the one that `text` means.
   * @throws IFError `INVALID_ARGUMENT` when the keys lead nowhere, or the text does not say a value of that kind
   */
  set(value: unknown, keys: readonly string[], text: string, place: Place): unknown;
}
export type Infer<S> = S extends Schema<infer T> ? T : never;

/** A schema of values without keys of their own. */
function leaf<T>(parse: (value: unknown, place: Place) => T, read: (text: string, place: Place) => unknown): Schema<T> {
  return {
    parse,
    set: (_value, keys, text, place) => {
      if (keys.length > 0) place.fail(`it has no key "${keys[0]}"`);
      const value = read(text, place);
      parse(value, place);
      return value;
    },
  };
}

function jsonText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export interface NumberOptions {
  min: number;
  max: number;
  integer?: boolean;
  /** Left out: the value is required. */
  default?: number;
}

export function number({ min, max, integer = false, default: fallback }: NumberOptions): Schema<number> {
  const expected = `a ${integer ? 'whole ' : ''}number from ${min} to ${max}`;
  return leaf((value: unknown = fallback, place: Place) => {
    if (typeof value !== 'number' || !(value >= min && value <= max) || (integer && !Number.isInteger(value))) place.wrong(expected, value);
    return value;
  }, (text) => (text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text));
}

export function boolean(fallback: boolean): Schema<boolean> {
  return leaf((value: unknown = fallback, place: Place) => (typeof value === 'boolean' ? value : place.wrong('true or false', value)), jsonText);
}

/** Text that is not empty. */
export function text(fallback?: string): Schema<string> {
  return leaf((value: unknown = fallback, place: Place) => (typeof value === 'string' && value !== '' ? value : place.wrong('text', value)), (value) => value);
}

export function choice<const T extends string | number>(values: readonly T[], fallback?: T): Schema<T> {
  const expected = values.length === 1 ? describeJson(values[0]) : `${values.slice(0, -1).map(describeJson).join(', ')} or ${describeJson(values.at(-1))}`;
  return leaf<T>((value: unknown = fallback, place: Place) => (values.includes(value as T) ? value as T : place.wrong(expected, value)),
    (value) => values.find((known) => String(known) === value) ?? value);
}

/** A list of `min` to `max` items. On a command line: JSON. */
export function list<T>(item: Schema<T>, { min, max, default: fallback }: { min: number; max: number; default?: T[] }): Schema<T[]> {
  return leaf((value: unknown = fallback, place: Place) => {
    if (!Array.isArray(value)) place.wrong('a list', value);
    if (!(value.length >= min && value.length <= max)) place.fail(`expected ${min} to ${max} items, got ${value.length}`);
    return value.map((entry, i) => item.parse(entry, place.at(String(i))));
  }, jsonText);
}

/** Any value that JSON can say. */
export function json(): Schema<JsonObject> {
  return {
    parse: (value, place) => (isJsonObject(value) ? value : place.wrong('an object', value)),
    set: (value, keys, text, place: Place) => {
      const [key, ...rest] = keys;
      if (key === undefined) return jsonText(text);
      const object = isJsonObject(value) ? value : {};
      return { ...object, [key]: rest.length ? json().set(object[key], rest, text, place.at(key)) : jsonText(text) };
    },
  };
}

/** Absent, or a value of `schema`. */
export function optional<T>(schema: Schema<T>): Schema<T | undefined> {
  return { ...schema, parse: (value, place) => (value === undefined ? undefined : schema.parse(value, place)) };
}

/** `false` turns the whole off. */
export function orFalse<T>(schema: Schema<T>): Schema<T | false> {
  return {
    parse: (value, place) => (value === false ? false : schema.parse(value, place)),
    set: (value, keys, text, place) => (keys.length === 0 && text === 'false' ? false : schema.set(value === false ? undefined : value, keys, text, place)),
  };
}

type Fields = Record<string, Schema<unknown>>;
type Values<F extends Fields> = { [K in keyof F]: Infer<F[K]> };

/** An object with these keys and no others. Absent: as an empty one, unless it is `required`. */
export function object<F extends Fields>(fields: F, options: { required?: boolean } = {}): Schema<Values<F>> {
  const known = Object.keys(fields);
  return {
    parse: (value, place: Place) => {
      const given = value === undefined && !options.required ? {} : value;
      if (!isJsonObject(given)) place.wrong('an object', value);
      for (const key of Object.keys(given)) if (!Object.hasOwn(fields, key)) place.unknownKey(key, known);
      return Object.fromEntries(known.map((key) => [key, fields[key]!.parse(given[key], place.at(key))])) as Values<F>;
    },
    set: (value, keys, text, place: Place) => {
      const [key, ...rest] = keys;
      if (key === undefined) place.fail(`set its keys one by one, e.g. ${[...place.path, known[0]].join('.')}=…`);
      if (!Object.hasOwn(fields, key)) place.unknownKey(key, known);
      const given = isJsonObject(value) ? value : {};
      return { ...given, [key]: fields[key]!.set(given[key], rest, text, place.at(key)) };
    },
  };
}

/** One of several objects, told apart by their `type`. Absent: the variant `fallback`. */
export function union<V extends Record<string, Schema<object>>>(variants: V, fallback?: keyof V & string): Schema<{ [K in keyof V]: { type: K } & Infer<V[K]> }[keyof V]> {
  type Value = { [K in keyof V]: { type: K } & Infer<V[K]> }[keyof V];
  const types = Object.keys(variants);
  const tag = choice(types);
  const variantOf = (value: unknown, place: Place): [string, JsonObject] => {
    const given = value === undefined && fallback !== undefined ? { type: fallback } : value;
    if (!isJsonObject(given)) place.wrong(`an object with a type (${types.join(', ')})`, value);
    return [tag.parse(given['type'], place.at('type')), given];
  };
  return {
    parse: (value, place: Place) => {
      const [type, { type: _, ...rest }] = variantOf(value, place);
      return { type, ...variants[type]!.parse(rest, place) } as Value;
    },
    set: (value, keys, text, place: Place) => {
      if (keys[0] === 'type') return { type: tag.set(undefined, keys.slice(1), text, place.at('type')) };
      const [type, { type: _, ...rest }] = variantOf(value, place);
      return { type, ...variants[type]!.set(rest, keys, text, place) as object };
    },
  };
}
