import path from 'node:path';
import type { SchemaTree } from 'hyparquet';
import { getTreePath } from 'hyparquet/src/schema.js';
import { BoundedCache } from './bounded-cache.js';
import { Budget } from './budget.js';
import type { DataContext } from './context.js';
import type { Page, ParquetFile } from './parquet-file.js';
import { decodeDictionary, decodePage, type Levels, type PageRows } from './parquet-page.js';
import { readRange } from './ranges.js';
import { Spool } from './spool.js';

type Bytes = Uint8Array | undefined;

const CACHE_BYTES = 64 * 2 ** 20;
const LARGEST_KEPT = 2 ** 20; // bytes of a page or dictionary, decompressed; larger ones are spooled
const LARGEST_LIST_CHUNK = 128 * 2 ** 20; // bytes of a column of lists in one row group: their pages are read together
const PAGE_BYTES = 300; // of what is kept about a page

/** Where values are in the spool; lengths are -1 where there is none. */
interface Spooled {
  offsets: Float64Array;
  lengths: Int32Array;
}

/**
 * Reads single values of Parquet files. A page (or dictionary) is the least that can be decompressed. Writers aim at 1 MB, but
 * pyarrow looks only every 1,024 rows, which may be 100 MB of pictures. What is much larger than a picture is therefore
 * unpacked once, into a file of the run, and its values read from there: any order of rows then costs one pass over the
 * files, and memory does not grow with them.
 */
export class ParquetReader {
  /** Rows of pages, lists of row groups and lists of pages. */
  private readonly cache = new BoundedCache<ReadonlyArray<unknown>>(CACHE_BYTES);
  private readonly spooled = new Map<string, Promise<Spooled | undefined>>();
  /** One at a time unpacks what is large. */
  private readonly unpacking = new Budget(1);
  private spool: Promise<Spool | undefined> | undefined;

  /** @param context where the spool is made; without a cache folder large pages are unpacked each time */
  constructor(private readonly context: DataContext) {}

  /**
   * A value of a column of byte arrays.
   * @param leaf path of the column
   * @param row of the file
   * @returns its bytes, or of a list those of its elements; undefined where there is none
   * @throws Error with the reason for damaged pages; IFError `IO`
   */
  async value(file: ParquetFile, leaf: readonly string[], row: number): Promise<Bytes | Bytes[]> {
    const { group, rowInGroup } = file.locate(row);
    const levels = levelsOf(getTreePath(file.schema, [...leaf]));
    const { codec } = file.chunk(leaf, group);
    const pages = await this.cached(file, [group, ...leaf, 'pages'], PAGE_BYTES, () => file.pages(leaf, group));
    const dictionary = pages.find(({ header }) => header.type === 'DICTIONARY_PAGE');
    const entries = async (): Promise<Uint8Array[]> => (dictionary ? decodeDictionary(dictionary.header, await bodyOf(file, dictionary), codec) : []);
    const rowsOf = async (page: Page): Promise<PageRows<Uint8Array>> =>
      decodePage(page.header, await bodyOf(file, page), codec, levels, usesDictionary(page) ? await entries() : undefined);
    if (levels.element !== undefined) {
      const weight = pages.reduce((sum, { header }) => sum + header.uncompressed_page_size, 0);
      const lists = await this.cached(file, [group, ...leaf, 'lists'], weight, () => joinLists(pages, weight, file.groups[group]!.rows, rowsOf));
      return lists[rowInGroup];
    }
    const page = pages.find(({ firstRow, values }) => rowInGroup >= firstRow && rowInGroup < firstRow + values);
    if (!page) throw new Error(`row ${rowInGroup} of row group ${group} is in no page`);
    const index = rowInGroup - page.firstRow;
    const plainRows = async (): Promise<Bytes[]> => (await rowsOf(page)).rows as Bytes[];
    const dictionarySize = usesDictionary(page) && dictionary ? dictionary.header.uncompressed_page_size : 0;
    if (dictionarySize > LARGEST_KEPT) {
      const numbers = await this.cached(file, [page.offset], 8 * page.values, async () => {
        const all = Array.from({ length: dictionary!.header.dictionary_page_header!.num_values }, (_, i) => i);
        return decodePage(page.header, await bodyOf(file, page), codec, levels, all).rows as (number | undefined)[];
      });
      const entry = numbers[index];
      return entry === undefined ? undefined : this.spooledValue(file, dictionary!, entries, entry);
    }
    const pageSize = page.header.uncompressed_page_size;
    if (pageSize > LARGEST_KEPT) return this.spooledValue(file, page, plainRows, index);
    return (await this.cached(file, [page.offset], pageSize + dictionarySize, plainRows))[index];
  }

  async close(): Promise<void> {
    await (await this.spool)?.close();
  }

  private cached<T>(file: ParquetFile, key: readonly (string | number)[], weight: number, make: () => Promise<readonly T[]>): Promise<readonly T[]> {
    return this.cache.get(JSON.stringify([file.path, ...key]), weight, make) as Promise<readonly T[]>;
  }

  /** One of the values of something large. */
  private async spooledValue(file: ParquetFile, { offset }: Page, unpack: () => Promise<Bytes[]>, index: number): Promise<Bytes> {
    const key = `${file.path}\0${offset}`;
    let spooled = this.spooled.get(key);
    if (!spooled) {
      spooled = this.alone(async () => {
        const spool = await (this.spool ??= this.createSpool());
        return spool && writeSpool(spool, await unpack());
      });
      this.spooled.set(key, spooled);
      spooled.catch(() => this.spooled.delete(key));
    }
    const found = await spooled;
    if (!found) return this.alone(async () => (await unpack())[index]?.slice());
    const length = found.lengths[index]!;
    return length < 0 ? undefined : (await this.spool)!.read(found.offsets[index]!, length);
  }

  private async createSpool(): Promise<Spool | undefined> {
    const { cacheDir, onWarning } = this.context;
    if (cacheDir === null) return undefined;
    try {
      return await Spool.create(path.join(cacheDir, 'spool'));
    } catch (error) {
      onWarning?.(`${(error as Error).message}; large pages of Parquet files are unpacked each time instead, which is slow`);
      return undefined;
    }
  }

  private async alone<T>(work: () => Promise<T>): Promise<T> {
    const release = await this.unpacking.take(1);
    try {
      return await work();
    } finally {
      release();
    }
  }
}

function bodyOf({ path: file }: ParquetFile, { offset, length }: Page): Promise<Uint8Array> {
  return readRange(file, offset, length);
}

function usesDictionary({ header: { data_page_header: v1, data_page_header_v2: v2 } }: Page): boolean {
  return (v1 ?? v2)?.encoding?.endsWith('DICTIONARY') ?? false;
}

/** The lists of a whole row group: where one begins is known only after all before it. */
async function joinLists(pages: readonly Page[], bytes: number, rows: number, rowsOf: (page: Page) => Promise<PageRows<Uint8Array>>): Promise<(Bytes[] | undefined)[]> {
  if (bytes > LARGEST_LIST_CHUNK) throw new Error(`the lists of a row group have ${bytes} bytes, more than ${LARGEST_LIST_CHUNK}; write smaller row groups`);
  const lists: (Bytes[] | undefined)[] = [];
  for (const page of pages) {
    if (page.header.type === 'DICTIONARY_PAGE') continue;
    const { rows: found, continues } = await rowsOf(page) as { rows: (Bytes[] | undefined)[]; continues: boolean };
    if (continues && lists.length > 0) lists[lists.length - 1] = [...lists.at(-1) ?? [], ...found.shift() ?? []];
    for (const list of found) lists.push(list);
  }
  if (lists.length !== rows) throw new Error(`a row group has ${lists.length} lists instead of ${rows}`);
  return lists;
}

/** The values of a page are parts of one buffer, so that one write is enough. */
async function writeSpool(spool: Spool, values: readonly Bytes[]): Promise<Spooled> {
  const present = values.filter((value) => value !== undefined);
  const start = present[0]?.byteOffset ?? 0;
  const last = present.at(-1);
  const base = last ? await spool.append(new Uint8Array(last.buffer, start, last.byteOffset + last.length - start)) : 0;
  return {
    offsets: Float64Array.from(values, (value) => (value ? base + value.byteOffset - start : 0)),
    lengths: Int32Array.from(values, (value) => value?.length ?? -1),
  };
}

/** From the nodes above a column (Dremel's levels): every optional or repeated one counts. */
function levelsOf(schemaPath: readonly SchemaTree[]): Levels {
  let present = 0;
  let element: number | undefined;
  for (const { element: { repetition_type: repetition } } of schemaPath.slice(1)) {
    if (repetition !== 'REQUIRED') present++;
    if (repetition === 'REPEATED') element = present;
  }
  return { present, element };
}
