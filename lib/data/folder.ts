import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { captionsOf, readMetadata, requireColumn } from './metadata.js';
import { nothingLeft, type PictureRecord, type PictureSource, type Skipped } from './picture-dataset.js';
import { containedPath, listFolder } from './walk.js';

const PICTURE_NAME = /\.(jpe?g|png|webp|gif|tiff?|avif)$/i;
const METADATA_NAME = /^(.*\/)?metadata\.(jsonl|csv)$/;
const LARGEST_CAPTION_FILE = 65536; // bytes

export interface FolderOptions {
  path: string;
  /** Column of metadata.jsonl or metadata.csv; default `text`. */
  captionColumn?: string;
  /** One caption for all pictures, whatever lies beside them: the instance or class prompt of DreamBooth. */
  caption?: string;
}

interface Entry {
  key: string;
  /** Absent: in the text file beside the picture. */
  captions?: string[];
}

/** Whether a file's name promises a picture. */
export function isPictureName(name: string): boolean {
  return PICTURE_NAME.test(name);
}

/**
 * Pictures of a folder with captions as in Hugging Face's imagefolder: a metadata.jsonl or metadata.csv (columns
 * `file_name`, relative to it, and the captions) in the folder or in folders below it; where there is none at all, a .txt
 * file of the same name beside each picture. With options.caption none of these is read.
 * @throws IFError `NOT_FOUND` (folder, captions, pictures), `INVALID_ARGUMENT` (column), `FILE_FORMAT`, `IO`
 */
export async function openFolder(options: FolderOptions): Promise<PictureSource> {
  const { files, leftOut } = await listFolder(options.path);
  const metadata = files.filter((name) => METADATA_NAME.test(name));
  const pictures = files.filter(isPictureName);
  const entries: Entry[] = options.caption !== undefined ? withCaption(options.caption, options, pictures) : metadata.length > 0
    ? await fromMetadata(options, metadata, new Set(files), pictures, leftOut)
    : fromTextFiles(options, pictures, new Set(files), leftOut);
  if (entries.length === 0) throw nothingLeft(options.path, leftOut);
  return {
    length: entries.length,
    description: `folder ${options.path}, ${entries.length} pictures`,
    leftOut,
    read: (index) => readEntry(options.path, entries[index]!),
    async *captions() {
      if (options.caption !== undefined) return yield options.caption;
      for (const entry of entries) {
        if (entry.captions) yield* entry.captions;
        else {
          const record = await readEntry(options.path, entry);
          if ('captions' in record) yield* record.captions;
        }
      }
    },
    close: async () => undefined,
  };
}

function withCaption(caption: string, { path: folder, captionColumn }: FolderOptions, pictures: string[]): Entry[] {
  if (captionColumn !== undefined) throw new IFError('INVALID_ARGUMENT', `data folder ${folder}: give either caption or captionColumn, not both`);
  if (caption.trim() === '') throw new IFError('INVALID_ARGUMENT', `data folder ${folder}: caption must not be blank`);
  const captions = [caption];
  return pictures.map((key) => ({ key, captions }));
}

async function fromMetadata(
  { path: folder, captionColumn = 'text' }: FolderOptions, metadata: string[], files: Set<string>, pictures: string[], leftOut: Skipped[],
): Promise<Entry[]> {
  const folders = metadata.map((name) => path.posix.dirname(name));
  const twice = folders.find((name, i) => folders.indexOf(name) !== i);
  if (twice !== undefined) throw new IFError('INVALID_ARGUMENT', `data folder ${path.join(folder, twice)}: it has both metadata.csv and metadata.jsonl; remove one`);
  const entries: Entry[] = [];
  const named = new Set<string>();
  for (const [i, name] of metadata.entries()) {
    const file = path.join(folder, name);
    const rows = await readMetadata(file);
    const columns = [...new Set(rows.flatMap(({ fields }) => Object.keys(fields)))];
    if (rows.length === 0) continue;
    requireColumn('file_name', columns, file, 'expected the path of each picture, relative to this file');
    requireColumn(captionColumn, columns, file, 'name the column of the captions with captionColumn');
    for (const { line, fields } of rows) {
      const given = fields['file_name'];
      const inside = typeof given === 'string' ? containedPath(given) : undefined;
      if (inside === undefined) {
        leftOut.push({ key: `${name}:${line}`, reason: `file_name must be a path below the folder, without "..", got ${JSON.stringify(given)}` });
        continue;
      }
      const key = path.posix.join(folders[i]!, inside);
      if (named.has(key)) {
        leftOut.push({ key: `${name}:${line}`, reason: `${key} was named before; several captions go into one list` });
        continue;
      }
      named.add(key);
      const captions = captionsOf(fields[captionColumn]);
      if (!Array.isArray(captions)) leftOut.push({ key, reason: captions.reason });
      else if (!files.has(key)) leftOut.push({ key, reason: 'the file does not exist' });
      else entries.push({ key, captions });
    }
  }
  for (const key of pictures) if (!named.has(key)) leftOut.push({ key, reason: 'no metadata file names it' });
  return entries;
}

function fromTextFiles({ path: folder, captionColumn }: FolderOptions, pictures: string[], files: Set<string>, leftOut: Skipped[]): Entry[] {
  const entries: Entry[] = [];
  for (const key of pictures) {
    if (files.has(captionFile(key))) entries.push({ key });
    else leftOut.push({ key, reason: `it has no caption: no metadata and no ${path.posix.basename(captionFile(key))}` });
  }
  if (pictures.length > 0 && (entries.length === 0 || captionColumn !== undefined)) {
    throw new IFError('NOT_FOUND', `data folder ${folder}: ${pictures.length} pictures, but ${captionColumn === undefined ? 'no captions' : `no metadata with a column "${captionColumn}"`}; `
      + 'write metadata.jsonl with lines like {"file_name": "a.png", "text": "a red apple"}, or a.txt beside a.png');
  }
  return entries;
}

const captionFile = (picture: string): string => picture.replace(PICTURE_NAME, '.txt');

async function readEntry(folder: string, { key, captions }: Entry): Promise<PictureRecord | Skipped> {
  const encoded = path.join(folder, key);
  if (captions) return { key, captions, encoded };
  const file = path.join(folder, captionFile(key));
  try {
    const found = await stat(file);
    if (!found.isFile() || found.size > LARGEST_CAPTION_FILE) return { key, reason: `its caption file must be a file of at most ${LARGEST_CAPTION_FILE} bytes` };
    const text = captionsOf(await readFile(file, 'utf8'));
    return Array.isArray(text) ? { key, captions: text, encoded } : { key, reason: 'its caption file is empty' };
  } catch (error) {
    return { key, reason: (ioError('reading', file, error) as Error).message };
  }
}
