// metadata.jsonl and metadata.csv of Hugging Face's imagefolder (huggingface.co/docs/datasets/image_dataset).
import { readFile, stat } from 'node:fs/promises';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { nearestName } from '../suggest.js';
import { parseCsv } from './csv.js';

export interface MetadataRow {
  /** From 1. */
  line: number;
  fields: Readonly<Record<string, unknown>>;
}

const LARGEST_METADATA = 256 * 2 ** 20; // bytes; read as a whole

/**
 * The rows of a metadata file.
 * @param file ends in .jsonl or .csv
 * @throws IFError `FILE_FORMAT` with the line for what is no JSON object, bad CSV, rows of other lengths than the header,
 *   no UTF-8; `IO`
 */
export async function readMetadata(file: string): Promise<MetadataRow[]> {
  const text = await readText(file);
  return file.endsWith('.csv') ? csvRows(text, file) : jsonRows(text, file);
}

async function readText(file: string): Promise<string> {
  try {
    const { size } = await stat(file);
    if (size > LARGEST_METADATA) throw new IFError('FILE_FORMAT', `${file}: it has ${size} bytes, more than ${LARGEST_METADATA}; split the folder`);
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(file));
  } catch (error) {
    if (error instanceof TypeError) throw new IFError('FILE_FORMAT', `${file}: it is not UTF-8 text`, { cause: error });
    throw ioError('reading', file, error);
  }
}

function jsonRows(text: string, file: string): MetadataRow[] {
  const rows: MetadataRow[] = [];
  for (const [i, content] of text.split('\n').entries()) {
    if (content.trim() === '') continue;
    let fields: unknown;
    try {
      fields = JSON.parse(content);
    } catch (cause) {
      throw new IFError('FILE_FORMAT', `${file}, line ${i + 1}: expected one JSON object per line (${(cause as Error).message})`, { cause });
    }
    if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) throw new IFError('FILE_FORMAT', `${file}, line ${i + 1}: expected a JSON object`);
    rows.push({ line: i + 1, fields: fields as Record<string, unknown> });
  }
  return rows;
}

function csvRows(text: string, file: string): MetadataRow[] {
  const [header, ...records] = parseCsv(text, file);
  if (!header) return [];
  const repeated = header.fields.find((name, i) => header.fields.indexOf(name) !== i);
  if (repeated !== undefined) throw new IFError('FILE_FORMAT', `${file}: the column "${repeated}" is there twice`);
  return records.map(({ line, fields }) => {
    if (fields.length !== header.fields.length) throw new IFError('FILE_FORMAT', `${file}, line ${line}: expected ${header.fields.length} fields as in the header, got ${fields.length}`);
    return { line, fields: Object.fromEntries(header.fields.map((name, i) => [name, fields[i]])) };
  });
}

/**
 * Checks that a column exists.
 * @param where what has the columns, for messages
 * @param remedy how the user names another one
 * @throws IFError `INVALID_ARGUMENT` with the columns that there are
 */
export function requireColumn(name: string, columns: readonly string[], where: string, remedy: string): void {
  if (columns.includes(name)) return;
  const nearest = nearestName(name, columns);
  throw new IFError('INVALID_ARGUMENT', `${where}: no column "${name}"${nearest === undefined ? '' : ` (did you mean "${nearest}"?)`}; `
    + `it has ${columns.length === 0 ? 'none' : columns.map((column) => `"${column}"`).join(', ')}; ${remedy}`);
}

/**
 * The captions in a cell: a text or a list of texts; blank ones do not count.
 * @returns at least one, or why there is none
 */
export function captionsOf(value: unknown): string[] | { reason: string } {
  const values: readonly unknown[] = Array.isArray(value) ? value : value === undefined || value === null ? [] : [value];
  const wrong = values.find((item) => typeof item !== 'string');
  if (wrong !== undefined) return { reason: `its caption must be a text or a list of texts, got ${wrong === null ? 'null' : typeof wrong}` };
  const captions = (values as string[]).map((caption) => caption.trim()).filter((caption) => caption !== '');
  return captions.length > 0 ? captions : { reason: 'it has no caption' };
}
