import { readFile } from 'node:fs/promises';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';

/** Parsed JSON of a configuration file. `where` is how messages call the file. */
export type JsonObject = Record<string, unknown>;

/** Whether a parsed JSON value is an object (not null, not an array). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A short form of any JSON value for a message; nested values are cut off, so that any depth and length is safe. */
export function describeJson(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value !== 'object' || value === null) return String(value);
  if (!Array.isArray(value)) return 'an object';
  const shown = value.slice(0, 8).map((item) => (typeof item === 'object' && item !== null ? '…' : describeJson(item)));
  return `[${shown.join(', ')}${value.length > 8 ? ', …' : ''}]`;
}

// One JSON token (RFC 8259): punctuation, string, number, literal. Sticky, white space in front.
const TOKEN = /[ \t\n\r]*(?:([[\]{}:,])|"[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.+-])|(?:true|false|null)(?!\w))/y;

/**
 * The offset of the first character that cannot belong to a JSON document, or the length when it ends too early.
 * Called only after JSON.parse refused `text`: V8 does not always say where.
 */
function errorOffset(text: string): number {
  const open: string[] = []; // the brackets around the current place
  let expected: 'value' | 'first value' | 'key' | 'first key' | 'colon' | 'after' | 'end' = 'value';
  let offset = 0;
  for (;;) {
    TOKEN.lastIndex = offset;
    const match = TOKEN.exec(text);
    const start = offset + (match?.[0] ?? text.slice(offset)).search(/[^ \t\n\r]|$/);
    if (!match || expected === 'end') return start;
    const token = match[1] ?? (text[start] === '"' ? 'string' : 'scalar');
    const after = open.length ? 'after' : 'end';
    if (expected === 'colon') {
      if (token !== ':') return start;
      expected = 'value';
    } else if (expected === 'after' || (expected === 'first key' && token === '}') || (expected === 'first value' && token === ']')) {
      if (token === ',' && expected === 'after') expected = open.at(-1) === '{' ? 'key' : 'value';
      else if (token === (open.at(-1) === '{' ? '}' : ']')) {
        open.pop();
        expected = open.length ? 'after' : 'end';
      } else return start;
    } else if (expected === 'key' || expected === 'first key') {
      if (token !== 'string') return start;
      expected = 'colon';
    } else if (token === '{' || token === '[') {
      open.push(token);
      expected = token === '{' ? 'first key' : 'first value';
    } else if (token === 'string' || token === 'scalar') expected = after;
    else return start;
    offset = TOKEN.lastIndex;
  }
}

/**
 * Parses JSON text.
 * @param where how messages call the text, e.g. `unet/config.json`
 * @throws IFError `FILE_FORMAT` with line and column of the first wrong character
 */
export function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const offset = errorOffset(text);
    const before = text.slice(0, offset).split('\n');
    const found = offset < text.length ? JSON.stringify(text.slice(offset, offset + 20)) : 'the end of the file';
    throw new IFError('FILE_FORMAT',
      `${where}: not valid JSON at line ${before.length}, column ${before.at(-1)!.length + 1}: unexpected ${found}`, { cause });
  }
}

/**
 * Reads and parses a JSON file (UTF-8).
 * @throws IFError `NOT_FOUND` when there is no such file, `FILE_FORMAT` with line and column when it is not JSON, `IO` when
 *   the operating system refuses
 */
export async function readJson(file: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause });
    throw ioError('reading', file, cause);
  }
  return parseJson(text, file);
}

/**
 * The text of a JSON object with some of its values changed. Numbers that were written with a point keep it: transformers
 * refuses 1 where it expects 1.0.
 * @param where how messages call the text
 * @throws IFError `FILE_FORMAT` when it is no JSON object
 */
export function changedJson(text: string, where: string, changes: JsonObject): string {
  const json = parseJson(text, where);
  if (!isJsonObject(json)) throw new IFError('FILE_FORMAT', `${where}: expected a JSON object, got ${describeJson(json)}`);
  const floats = new Set([...text.matchAll(/"(\w+)"\s*:\s*-?\d+\.\d/g)].map(([, key]) => key));
  const written = JSON.stringify({ ...json, ...changes }, null, 2);
  return `${written.replace(/^( {2}"(\w+)": -?\d+)(,?)$/gm, (line, head: string, key: string, comma: string) => (floats.has(key) ? `${head}.0${comma}` : line))}\n`;
}
