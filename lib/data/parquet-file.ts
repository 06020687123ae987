// Where things are in a Parquet file (github.com/apache/parquet-format): footer, row groups, pages. Every position and
// count is checked against the file before it is used.
import { stat } from 'node:fs/promises';
import { parquetMetadata, parquetSchema, type ColumnMetaData, type FileMetaData, type SchemaTree } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import type { PageHeader } from 'hyparquet/src/types.js';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';
import { readRange } from './ranges.js';

const LARGEST_FOOTER = 256 * 2 ** 20; // bytes
const LARGEST_PAGE = 2 ** 30; // bytes decompressed
const MOST_VALUES = 2 ** 24; // of one row group, page or dictionary; writers make at most a million
const SMALL_HEADER = 4096; // bytes
const LARGEST_HEADER = 2 ** 22; // of a page: it may hold its smallest and its largest value

export interface RowGroup {
  /** Of the file. */
  firstRow: number;
  rows: number;
}

/** A page of a column of a row group. */
export interface Page {
  header: PageHeader;
  /** Of the data behind the header. */
  offset: number;
  length: number;
  /** Of the row group, where there is one value per row. */
  firstRow: number;
  values: number;
}

export class ParquetFile {
  readonly groups: readonly RowGroup[];
  readonly rows: number;

  private constructor(readonly path: string, private readonly size: number, private readonly metadata: FileMetaData, readonly schema: SchemaTree) {
    const isText = (value: unknown): boolean => typeof value === 'string';
    if (!metadata.schema.every(({ name }) => isText(name))) throw new Error('a column has no name');
    const groups: RowGroup[] = [];
    let firstRow = 0;
    for (const group of metadata.row_groups) {
      const rows = Number(group.num_rows);
      if (!(Number.isInteger(rows) && rows >= 0 && rows <= MOST_VALUES)) throw new Error(`a row group claims ${group.num_rows} rows`);
      if (!group.columns.every((column) => column.meta_data?.path_in_schema.every(isText))) throw new Error('a column of a row group has no path');
      if (rows > 0) groups.push({ firstRow, rows });
      firstRow += rows;
    }
    this.metadata.row_groups = metadata.row_groups.filter((group) => Number(group.num_rows) > 0);
    this.groups = groups;
    this.rows = firstRow;
  }

  /**
   * Reads the footer.
   * @throws IFError `NOT_FOUND`, `FILE_FORMAT`, `UNSUPPORTED` for encrypted files, `IO`
   */
  static async open(file: string): Promise<ParquetFile> {
    const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') throw new IFError('NOT_FOUND', `${file}: no such file`, { cause: error });
      throw ioError('reading', file, error);
    });
    const wrong = (reason: string, cause?: unknown): IFError => new IFError('FILE_FORMAT', `${file}: expected a Parquet file: ${reason}`, { cause });
    if (!found.isFile()) throw wrong('it is not a file');
    if (found.size < 12) throw wrong('it is too short');
    const end = Buffer.from((await readRange(file, found.size - 8, 8)).buffer);
    if (end.toString('latin1', 4) === 'PARE') throw new IFError('UNSUPPORTED', `${file}: it is encrypted`);
    if (end.toString('latin1', 4) !== 'PAR1') throw wrong('it does not end with PAR1; it is cut off, or of another format');
    const footer = end.readUInt32LE();
    if (!(footer + 12 <= found.size && footer <= LARGEST_FOOTER)) throw wrong(`its footer claims ${footer} bytes`);
    const bytes = await readRange(file, found.size - 8 - footer, footer + 8);
    try {
      const metadata = parquetMetadata(bytes.buffer, { geoparquet: false });
      return new ParquetFile(file, found.size, metadata, parquetSchema(metadata));
    } catch (cause) {
      throw wrong(`its footer is damaged (${(cause as Error).message})`, cause);
    }
  }

  /** The row group that holds a row of the file, and its place there. */
  locate(row: number): { group: number; rowInGroup: number } {
    let [low, high] = [0, this.groups.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.groups[middle]!.firstRow <= row) low = middle;
      else high = middle - 1;
    }
    return { group: low, rowInGroup: row - this.groups[low]!.firstRow };
  }

  /**
   * A column of a row group.
   * @param leaf its path in the schema
   * @throws Error when it is not there
   */
  chunk(leaf: readonly string[], group: number): ColumnMetaData {
    const found = this.metadata.row_groups[group]!.columns.find((column) => column.meta_data?.path_in_schema.join('\0') === leaf.join('\0'));
    if (!found?.meta_data) throw new Error(`row group ${group} has no column "${leaf.join('.')}"`);
    return found.meta_data;
  }

  /**
   * The pages of a column in a row group, from their headers.
   * @throws Error with the reason for damaged ones; IFError `IO`
   */
  async pages(leaf: readonly string[], group: number): Promise<Page[]> {
    const { data_page_offset: data, dictionary_page_offset: dictionary, total_compressed_size: total, num_values: claimed } = this.chunk(leaf, group);
    const start = Math.min(Number(data), Number(dictionary || data));
    const end = start + Number(total);
    const most = Number(claimed);
    if (!(start >= 0 && end >= start && end <= this.size && most >= 0 && most <= MOST_VALUES)) throw new Error(`a column of row group ${group} claims bytes ${start} to ${end} and ${most} values`);
    const pages: Page[] = [];
    let firstRow = 0;
    for (let offset = start; offset < end && firstRow < most;) {
      const page = await this.readPageHeader(offset, end);
      if (page.values > most - firstRow) throw new Error(`a page at byte ${offset} claims ${page.values} values`);
      pages.push({ ...page, firstRow });
      firstRow += page.values;
      offset = page.offset + page.length;
    }
    return pages;
  }

  private async readPageHeader(start: number, end: number): Promise<Omit<Page, 'firstRow'>> {
    for (let window = SMALL_HEADER; ; window *= 8) {
      const available = Math.min(window, end - start);
      const reader = { view: new DataView((await readRange(this.path, start, available)).buffer), offset: 0 };
      let header: PageHeader;
      try {
        header = parquetHeader(reader);
      } catch (error) {
        if (window < LARGEST_HEADER && available === window) continue; // perhaps it goes on behind the window
        throw new Error(`a damaged page header at byte ${start} (${(error as Error).message})`);
      }
      const { type, compressed_page_size: length, uncompressed_page_size: uncompressed } = header;
      const offset = start + reader.offset;
      const counted = type === 'DICTIONARY_PAGE' ? header.dictionary_page_header : type === 'DATA_PAGE' ? header.data_page_header : type === 'DATA_PAGE_V2' ? header.data_page_header_v2 : undefined;
      const count = counted?.num_values ?? NaN;
      if (!(length >= 0 && offset + length <= end && uncompressed >= 0 && uncompressed <= LARGEST_PAGE && count >= 0 && count <= MOST_VALUES)) {
        throw new Error(`a page at byte ${start} claims ${length} bytes, ${uncompressed} decompressed, and ${count} values`);
      }
      return { header: withoutStatistics(header), offset, length, values: type === 'DICTIONARY_PAGE' ? 0 : count };
    }
  }
}

/** They may be as large as a picture, and are not used. */
function withoutStatistics({ data_page_header: v1, data_page_header_v2: v2, ...rest }: PageHeader): PageHeader {
  const { statistics: _first, ...page } = v1 ?? {} as NonNullable<typeof v1>;
  const { statistics: _second, ...second } = v2 ?? {} as NonNullable<typeof v2>;
  return { ...rest, ...(v1 && { data_page_header: page }), ...(v2 && { data_page_header_v2: second }) };
}

