import path from 'node:path';
import type { SchemaTree } from 'hyparquet';
import { IFError } from '../errors.js';
import type { DataContext } from './context.js';
import { captionsOf, requireColumn } from './metadata.js';
import { ParquetFile } from './parquet-file.js';
import { ParquetReader } from './parquet-reader.js';
import { nothingLeft, type PictureRecord, type PictureSource, type Skipped } from './picture-dataset.js';
import { resolveShards, shardNames } from './shards.js';
import { containedPath } from './walk.js';

export interface ParquetOptions {
  /** Parquet files, folders of them, or names with ranges: `train-{00000..00007}-of-00008.parquet`. */
  path: string | readonly string[];
  /** Pictures: a struct {bytes, path} as Hugging Face writes it, or bytes; default `image`. */
  imageColumn?: string;
  /** Text, or lists of texts; default `text`. */
  captionColumn?: string;
}

/** Where the columns of one file are. */
interface Columns {
  bytes: string[];
  /** The picture as a file, where bytes are null. */
  path: string[] | undefined;
  caption: string[];
}

/**
 * Pictures in Parquet files in the layout of Hugging Face's datasets. Footers are read once; a picture is read with the
 * page that holds it, so that memory does not grow with files or row groups, in any order. Large pages are unpacked into a
 * temporary file below context.cacheDir (at most as large as the set).
 * @throws IFError as resolveShards; `FILE_FORMAT`, `INVALID_ARGUMENT` for columns that are missing or of another type,
 *   `NOT_FOUND` when there are no rows
 */
export async function openParquet(options: ParquetOptions, context: DataContext): Promise<PictureSource> {
  const paths = await resolveShards(options.path, '.parquet');
  const reader = new ParquetReader(context);
  const files: { file: ParquetFile; columns: Columns; firstIndex: number; name: string }[] = [];
  let length = 0;
  const names = shardNames(paths);
  for (const [i, name] of names.entries()) {
    const file = await ParquetFile.open(paths[i]!);
    files.push({ file, columns: findColumns(file, options), firstIndex: length, name });
    length += file.rows;
  }
  if (length === 0) throw nothingLeft(paths.length === 1 ? paths[0]! : `${paths.length} Parquet files`, [{ key: names[0]!, reason: 'it has no rows' }]);
  return {
    length,
    description: `Parquet ${paths[0]}${paths.length > 1 ? ` and ${paths.length - 1} more` : ''}, ${length} pictures`,
    leftOut: [],
    read: (index) => {
      const { file, columns, firstIndex, name } = files.findLast((entry) => entry.firstIndex <= index)!;
      const row = index - firstIndex;
      return readRow(reader, file, columns, row, `${name}:${row}`);
    },
    async *captions() {
      for (const { file, columns } of files) {
        for (let row = 0; row < file.rows; row++) {
          const captions = await readCaptions(reader, file, columns, row).catch(() => undefined); // a damaged page: named when it is loaded
          if (Array.isArray(captions)) yield* captions;
        }
      }
    },
    close: () => reader.close(),
  };
}

function findColumns({ path: file, schema }: ParquetFile, { imageColumn = 'image', captionColumn = 'text' }: ParquetOptions): Columns {
  const names = schema.children.map(({ element }) => element.name);
  requireColumn(imageColumn, names, file, 'name the column of the pictures with imageColumn');
  requireColumn(captionColumn, names, file, 'name the column of the captions with captionColumn');
  const image = schema.children.find(({ element }) => element.name === imageColumn)!;
  const caption = schema.children.find(({ element }) => element.name === captionColumn)!;
  const leaf = (tree: SchemaTree, name: string): string[] | undefined =>
    tree.children.find((child) => child.element.name === name && isBytes(child))?.path;
  const bytes = isBytes(image) && !isText(image) ? image.path : leaf(image, 'bytes');
  if (!bytes || image.element.repetition_type === 'REPEATED') {
    throw new IFError('INVALID_ARGUMENT', `${file}: the column "${imageColumn}" holds ${typeOf(image)}, expected pictures: a struct {bytes, path} or bytes`);
  }
  const leaves = leavesOf(caption);
  if (leaves.length !== 1 || leaves[0]!.element.type !== 'BYTE_ARRAY' || (caption.children.length > 0 && caption.element.converted_type !== 'LIST') || repetitions(caption) > 1) {
    throw new IFError('INVALID_ARGUMENT', `${file}: the column "${captionColumn}" holds ${typeOf(caption)}, expected captions: text or lists of texts`);
  }
  return { bytes, path: leaf(image, 'path'), caption: leaves[0]!.path };
}

function isBytes({ children, element }: SchemaTree): boolean {
  return children.length === 0 && element.type === 'BYTE_ARRAY' && element.repetition_type !== 'REPEATED';
}

function isText({ element }: SchemaTree): boolean {
  return element.converted_type === 'UTF8' || element.logical_type?.type === 'STRING';
}

/** Of a column with one leaf. */
function repetitions({ element, children }: SchemaTree): number {
  return (element.repetition_type === 'REPEATED' ? 1 : 0) + (children[0] ? repetitions(children[0]) : 0);
}

function leavesOf(tree: SchemaTree): SchemaTree[] {
  return tree.children.length === 0 ? [tree] : tree.children.flatMap(leavesOf);
}

/** A column's type in words, for messages. */
function typeOf(tree: SchemaTree): string {
  if (tree.element.converted_type === 'LIST' && tree.children.length > 0) return `lists of ${leavesOf(tree).map(typeOf).join(', ')}`;
  if (tree.children.length > 0) return `a struct {${tree.children.map(({ element }) => element.name).join(', ')}}`;
  return isText(tree) ? 'text' : tree.element.type ?? 'nothing';
}

async function readCaptions(reader: ParquetReader, file: ParquetFile, { caption }: Columns, row: number): Promise<string[] | { reason: string }> {
  const value = await reader.value(file, caption, row);
  return captionsOf(Array.isArray(value) ? value.map((item) => item && textOf(item)) : value && textOf(value));
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8');
}

async function readRow(reader: ParquetReader, file: ParquetFile, columns: Columns, row: number, key: string): Promise<PictureRecord | Skipped> {
  try {
    const captions = await readCaptions(reader, file, columns, row);
    if (!Array.isArray(captions)) return { key, reason: captions.reason };
    const bytes = await reader.value(file, columns.bytes, row);
    if (bytes instanceof Uint8Array) return { key, captions, encoded: bytes };
    const found = columns.path && await reader.value(file, columns.path, row);
    if (!(found instanceof Uint8Array)) return { key, reason: 'it has no picture' };
    const name = textOf(found);
    const inside = containedPath(name);
    if (inside === undefined) return { key, reason: `its path must be below the file's folder, without "..", got ${JSON.stringify(name)}` };
    return { key, captions, encoded: path.join(path.dirname(file.path), inside) };
  } catch (error) {
    return { key, reason: `it cannot be read: ${(error as Error).message}` };
  }
}
