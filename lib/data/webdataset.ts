import { LARGEST_FILE } from './decode.js';
import { captionsOf, requireColumn } from './metadata.js';
import { nothingLeft, type PictureRecord, type PictureSource, type Skipped } from './picture-dataset.js';
import { readRange } from './ranges.js';
import { resolveShards, shardNames } from './shards.js';
import { listTar, type TarMember } from './tar.js';
import { containedPath } from './walk.js';

export interface WebdatasetOptions {
  /** Tar files, folders of them, or names with ranges: `data-{000..127}.tar`. */
  path: string | readonly string[];
  /** The captions are this member of the sample's .json file; default: they are its .txt file. */
  captionColumn?: string;
}

const PICTURES = ['jpg', 'jpeg', 'png', 'webp', 'gif', 'tif', 'tiff', 'avif'];
const LARGEST_CAPTION = 2 ** 20; // bytes

interface Entry {
  /** Index of the shard. */
  shard: number;
  key: string;
  picture: TarMember;
  caption: TarMember;
}

/**
 * Samples of webdataset shards (github.com/webdataset/webdataset): the files of a tar archive that share a name up to the
 * first dot. Headers are read once; pictures are read where they lie, so that any order is as fast as another.
 * @throws IFError as resolveShards and listTar; `NOT_FOUND` when no sample is whole; `INVALID_ARGUMENT` when the first .json
 *   file has no such member
 */
export async function openWebdataset(options: WebdatasetOptions): Promise<PictureSource> {
  const shards = await resolveShards(options.path, '.tar');
  const entries: Entry[] = [];
  const leftOut: Skipped[] = [];
  const names = shardNames(shards);
  for (const [shard, file] of shards.entries()) await readShard(shard, file, names[shard]!, options, entries, leftOut);
  if (entries.length === 0) throw nothingLeft(shards.length === 1 ? shards[0]! : `${shards.length} shards`, leftOut);
  if (options.captionColumn !== undefined) await checkColumn(shards, entries[0]!, options.captionColumn);
  return {
    length: entries.length,
    description: `webdataset ${shards[0]}${shards.length > 1 ? ` and ${shards.length - 1} more` : ''}, ${entries.length} pictures`,
    leftOut,
    read: (index) => readRecord(shards, entries[index]!, options),
    async *captions() {
      for (const entry of entries) {
        const captions = await readCaptions(shards, entry, options);
        if (Array.isArray(captions)) yield* captions;
      }
    },
    close: async () => undefined,
  };
}

async function readShard(shard: number, file: string, shardName: string, { captionColumn }: WebdatasetOptions, entries: Entry[], leftOut: Skipped[]): Promise<void> {
  const extension = captionColumn === undefined ? 'txt' : 'json';
  const { members, leftOut: unusable } = await listTar(file);
  for (const { key, reason } of unusable) leftOut.push({ key: `${shardName}: ${key}`, reason });
  const samples = new Map<string, { picture?: TarMember; caption?: TarMember }>();
  for (const member of members) {
    const name = containedPath(member.name);
    const parts = name === undefined ? null : /^((?:.*\/)?[^/.]+)\.([^/]*)$/.exec(name);
    if (!parts) {
      leftOut.push({ key: `${shardName}: ${member.name}`, reason: name === undefined ? 'its name could lead out of the archive' : 'its name has no extension' });
      continue;
    }
    const role = PICTURES.includes(parts[2]!.toLowerCase()) ? 'picture' : parts[2]!.toLowerCase() === extension ? 'caption' : undefined;
    if (!role) continue; // other files of the sample
    const sample = samples.get(parts[1]!) ?? {};
    samples.set(parts[1]!, sample);
    if (sample[role]) leftOut.push({ key: `${shardName}: ${member.name}`, reason: `its sample has a ${role} already` });
    else sample[role] = member;
  }
  for (const [name, { picture, caption }] of samples) {
    const key = `${shardName}/${name}`;
    if (!picture) leftOut.push({ key, reason: 'it has no picture' });
    else if (!caption) leftOut.push({ key, reason: `it has no .${extension} file` });
    else entries.push({ shard, key, picture, caption });
  }
}

/** A wrong name would leave out every sample; files that are damaged are for later. */
async function checkColumn(shards: readonly string[], { shard, key, caption }: Entry, captionColumn: string): Promise<void> {
  const bytes = await readMember(shards[shard]!, caption);
  let fields: unknown;
  try {
    fields = 'reason' in bytes ? undefined : JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return;
  }
  if (typeof fields === 'object' && fields !== null) requireColumn(captionColumn, Object.keys(fields), `${key}.json`, 'name the member of the captions with captionColumn');
}

async function readRecord(shards: readonly string[], entry: Entry, options: WebdatasetOptions): Promise<PictureRecord | Skipped> {
  const { key, picture } = entry;
  const captions = await readCaptions(shards, entry, options);
  if (!Array.isArray(captions)) return { key, reason: captions.reason };
  if (picture.size > LARGEST_FILE) return { key, reason: `its file has ${picture.size} bytes, more than ${LARGEST_FILE}` };
  const encoded = await readMember(shards[entry.shard]!, picture);
  return 'reason' in encoded ? { key, reason: encoded.reason } : { key, captions, encoded };
}

async function readCaptions(shards: readonly string[], { shard, caption }: Entry, { captionColumn }: WebdatasetOptions): Promise<string[] | { reason: string }> {
  if (caption.size > LARGEST_CAPTION) return { reason: `its caption file has ${caption.size} bytes, more than ${LARGEST_CAPTION}` };
  const bytes = await readMember(shards[shard]!, caption);
  if ('reason' in bytes) return bytes;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (captionColumn === undefined) return captionsOf(text);
    const fields: unknown = JSON.parse(text);
    return captionsOf(typeof fields === 'object' && fields !== null && Object.hasOwn(fields, captionColumn) ? (fields as Record<string, unknown>)[captionColumn] : undefined);
  } catch {
    return { reason: `its caption file is not ${captionColumn === undefined ? '' : 'JSON in '}UTF-8` };
  }
}

async function readMember(file: string, { offset, size }: TarMember): Promise<Uint8Array | { reason: string }> {
  try {
    return await readRange(file, offset, size);
  } catch (error) {
    return { reason: (error as Error).message };
  }
}
