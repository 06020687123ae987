import { EMOJI_GROUPS } from '../data/emoji-set.js';
import { boolean, choice, list, number, object, optional, text, union, type Place, type Schema } from './schema.js';

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
  emoji: object({
    set: choice(['noto', 'fluent']), split: choice(['train', 'validation'], 'train'), flip: boolean(false),
    groups: optional(list(choice(EMOJI_GROUPS), { min: 1, max: EMOJI_GROUPS.length })), cropFrom: optional(number({ min: 8, max: 4096, integer: true })),
  }),
  parquet: object({ path: textOrList(), imageColumn: optional(text()), captionColumn: optional(text()), ...picture }),
  webdataset: object({ path: textOrList(), captionColumn: optional(text()), ...picture }),
});
