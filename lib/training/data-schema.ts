import { boolean, choice, list, object, optional, text, union, type Place, type Schema } from './schema.js';

/** A text, or a list of them. On a command line: the text itself, or JSON. */
function textOrList(): Schema<string | string[]> {
  const one = text();
  const several = list(text(), { min: 1, max: 100_000 });
  return {
    parse: (value, place: Place) => (Array.isArray(value) ? several : one).parse(value, place),
    set: (_value, keys, given, place: Place) => (given.startsWith('[') ? several : one).set(undefined, keys, given, place),
  };
}

const picture = { crop: choice(['random', 'center'], 'random'), flip: boolean(true) };

/** Where pictures come from: the options of lib/data, by type. */
export const dataSchema = union({
  folder: object({ path: text(), captionColumn: optional(text()), caption: optional(text()), ...picture }),
  emoji: object({ set: choice(['noto', 'fluent']), split: choice(['train', 'validation'], 'train'), flip: boolean(false) }),
  parquet: object({ path: textOrList(), imageColumn: optional(text()), captionColumn: optional(text()), ...picture }),
  webdataset: object({ path: textOrList(), captionColumn: optional(text()), ...picture }),
});
