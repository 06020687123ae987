import path from 'node:path';
import { IFError } from '../errors.js';
import type { DataContext } from './context.js';
import type { Dataset } from './dataset.js';
import { openEmoji, type EmojiOptions } from './emoji.js';
import { openFolder, type FolderOptions } from './folder.js';
import { openParquet, type ParquetOptions } from './parquet.js';
import { PictureDataset, type PictureOptions } from './picture-dataset.js';
import { openWebdataset, type WebdatasetOptions } from './webdataset.js';

/** What a configuration says about its pictures. */
export type DataConfig =
  | ({ type: 'folder' } & FolderOptions & PictureOptions)
  | ({ type: 'emoji' } & EmojiOptions)
  | ({ type: 'parquet' } & ParquetOptions & PictureOptions)
  | ({ type: 'webdataset' } & WebdatasetOptions & PictureOptions);

/**
 * Opens a data source. Everything that can be checked without decoding a picture is checked here.
 * @param config its paths are relative to context.base
 * @throws IFError `INVALID_ARGUMENT`, `NOT_FOUND`, `FILE_FORMAT`, `IO`: one line that says what is wrong with the data
 */
export async function openDataset(config: DataConfig, context: DataContext): Promise<Dataset> {
  const absolute = (names: string | readonly string[]): string | string[] =>
    typeof names === 'string' ? path.resolve(context.base, names) : names.map((name) => path.resolve(context.base, name));
  switch (config.type) {
    case 'folder': return new PictureDataset(await openFolder({ ...config, path: path.resolve(context.base, config.path) }), config);
    case 'parquet': return new PictureDataset(await openParquet({ ...config, path: absolute(config.path) }, context), config);
    case 'webdataset': return new PictureDataset(await openWebdataset({ ...config, path: absolute(config.path) }), config);
    case 'emoji': return openEmoji(config, context);
    default: throw new IFError('INVALID_ARGUMENT', `data.type: expected folder, emoji, parquet or webdataset, got ${JSON.stringify((config as { type: unknown }).type)}`);
  }
}
