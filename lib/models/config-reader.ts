import { IFError } from '../errors.js';
import { nearestName } from '../suggest.js';
import { describeJson, isJsonObject, type JsonObject } from './json.js';

export interface NumberRange {
  min: number;
  max: number;
}

/**
 * Reads the fields of one configuration object: each getter checks the type and range, or gives the default when the key
 * is absent. Wrong types and ranges throw `FILE_FORMAT`, values that the program does not implement `UNSUPPORTED`; both
 * name the file, field and value and what is expected.
 */
export class ConfigReader {
  private readonly values: JsonObject;
  private readonly read = new Set<string>();

  constructor(json: unknown, readonly where: string) {
    if (!isJsonObject(json)) throw new IFError('FILE_FORMAT', `${where}: expected a JSON object, got ${describeJson(json)}`);
    this.values = json;
  }

  /** The raw value, or `fallback` when the key is absent. A present `null` is a value. */
  raw(key: string, fallback: unknown): unknown {
    this.read.add(key);
    return Object.hasOwn(this.values, key) ? this.values[key] : fallback;
  }

  has(key: string): boolean {
    return Object.hasOwn(this.values, key);
  }

  /** A finite number within `range`. */
  number(key: string, fallback: number | undefined, range: NumberRange): number {
    return this.checkNumber(key, this.raw(key, fallback), range, false);
  }

  /** A whole number within `range`. */
  integer(key: string, fallback: number | undefined, range: NumberRange): number {
    return this.checkNumber(key, this.raw(key, fallback), range, true);
  }

  /** A whole number within `range`, or null. */
  integerOrNull(key: string, fallback: number | null, range: NumberRange): number | null {
    const value = this.raw(key, fallback);
    return value === null ? null : this.checkNumber(key, value, range, true);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw(key, fallback);
    if (typeof value !== 'boolean') this.wrong(key, 'true or false', value);
    return value;
  }

  /** A list of 1 to `maxLength` items, each checked by `item`. */
  list<T>(key: string, value: unknown, maxLength: number, item: (field: string, value: unknown) => T): T[] {
    if (!Array.isArray(value)) this.wrong(key, 'a list', value);
    if (value.length < 1 || value.length > maxLength) this.wrong(key, `1 to ${maxLength} items`, `${value.length} items`, false);
    return value.map((entry, i) => item(`${key}[${i}]`, entry));
  }

  /** A whole number that counts for all `length` blocks, or a list with one per block. */
  integerPerBlock(key: string, fallback: number, length: number, range: NumberRange): number[] {
    const value = this.raw(key, fallback);
    if (!Array.isArray(value)) return new Array<number>(length).fill(this.checkNumber(key, value, range, true));
    return this.sameLength(key, this.list(key, value, length, (field, entry) => this.checkNumber(field, entry, range, true)), length);
  }

  /** Refuses a list that has not one entry per block. */
  sameLength<T>(key: string, list: T[], length: number): T[] {
    if (list.length !== length) this.wrong(key, `${length} items, one per block of down_block_types`, `${list.length} items`, false);
    return list;
  }

  /** One of the keys of `table`; gives its value. Other strings (and null) are `UNSUPPORTED`. */
  choice<T>(key: string, value: unknown, table: ReadonlyMap<string | null, T>): T {
    if (value !== null && typeof value !== 'string') this.wrong(key, `one of ${[...table.keys()].join(', ')}`, value);
    const chosen = table.get(value);
    if (chosen === undefined) this.unsupported(key, value, [...table.keys()].join(', '));
    return chosen;
  }

  /** A field that is implemented for one value only. */
  only(key: string, fallback: unknown, supported: unknown): void {
    const value = this.raw(key, fallback);
    if (value !== supported) this.unsupported(key, value, describeJson(supported));
  }

  /** `_class_name`, when the file has one, must be `supported`. */
  className(supported: string): void {
    const value = this.raw('_class_name', supported);
    if (value !== supported) this.unsupported('_class_name', value, supported);
  }

  /**
   * Refuses keys that no getter read: they may change what the network computes. Keys that begin with `_` are notes of the
   * writer, null and false mean that a feature is off.
   */
  refuseUnknown(): void {
    for (const [key, value] of Object.entries(this.values)) {
      if (this.read.has(key) || key.startsWith('_') || value === null || value === false) continue;
      const meant = nearestName(key, [...this.read]);
      throw new IFError('UNSUPPORTED',
        `${this.where}: ${describeJson(key)} (value ${describeJson(value)}) is not a known field${meant ? `; did you mean "${meant}"?` : ''}`);
    }
  }

  checkNumber(field: string, value: unknown, { min, max }: NumberRange, whole: boolean): number {
    const kind = whole ? 'a whole number' : 'a number';
    if (typeof value !== 'number' || !Number.isFinite(value) || (whole && !Number.isInteger(value)) || value < min || value > max) {
      this.wrong(field, `${kind} from ${min} to ${max}`, value);
    }
    return value;
  }

  /** Throws `FILE_FORMAT`. */
  wrong(field: string, expected: string, value: unknown, quote = true): never {
    const got = value === undefined ? 'nothing (the field is required)' : quote ? describeJson(value) : String(value);
    throw new IFError('FILE_FORMAT', `${this.where}: ${field}: expected ${expected}, got ${got}`);
  }

  /** Throws `UNSUPPORTED`. */
  unsupported(field: string, value: unknown, supported: string): never {
    throw new IFError('UNSUPPORTED', `${this.where}: ${field} ${describeJson(value)} is not supported (supported: ${supported})`);
  }
}
