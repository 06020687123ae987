// Icon sets of npm with their names and keywords: @iconify-json/noto (Google's Noto Emoji, Apache-2.0),
// @iconify-json/fluent-emoji (Microsoft's Fluent Emoji, MIT) and emojibase-data (Unicode names, CLDR keywords, MIT).
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { IFError } from '../errors.js';
import { ioError } from '../files.js';

export type EmojiSetName = 'noto' | 'fluent';

const ICONS: Record<EmojiSetName, string> = { noto: '@iconify-json/noto', fluent: '@iconify-json/fluent-emoji' };
const NAMES = 'emojibase-data';
/** emojibase's numbers of the groups; 2 (skin tones, hair) and 9 (flags) are left out. */
const GROUPS = { smileys: 0, people: 1, animals: 3, food: 4, travel: 5, activities: 6, objects: 7, symbols: 8 } as const;
const HELD_OUT_ONE_IN = 20;

export type EmojiGroup = keyof typeof GROUPS;
export const EMOJI_GROUPS = Object.keys(GROUPS) as EmojiGroup[];

export interface Emoji {
  /** Unicode code points, e.g. `1F34E`. */
  hexcode: string;
  /** Unicode name, e.g. `red apple`. */
  name: string;
  group: EmojiGroup;
  /** At least one; repeated ones are meant to be chosen more often. */
  captions: readonly string[];
  /** Content of an <svg> element, and its viewBox. */
  body: string;
  viewBox: string;
  mirrored: boolean;
}

export interface EmojiSet {
  emojis: Emoji[];
  /** Packages with versions. */
  versions: string;
}

/** What is used of the packages' files. */
interface IconFile {
  icons: Record<string, Icon>;
  aliases?: Record<string, Icon & { parent: string; rotate?: number; hFlip?: boolean; vFlip?: boolean }>;
  width?: number;
  height?: number;
}
interface Icon {
  body: string;
  left?: number;
  top?: number;
  width?: number;
  height?: number;
}
interface EmojiName {
  label: string;
  hexcode: string;
  tags?: string[];
  group?: number;
}

/** One in twenty by a hash of the code points, so that a set that grows holds out the same ones. */
export function isHeldOut(hexcode: string): boolean {
  return createHash('sha256').update(hexcode).digest().readUInt32BE(0) % HELD_OUT_ONE_IN === 0;
}

/**
 * The emojis of a set that have a name: without skin tones, flags and clock faces.
 * @param base folder of the project whose packages are looked at first, then those of this package
 * @throws IFError `NOT_FOUND` with the command that installs what is missing; `INVALID_ARGUMENT` for another set;
 *   `FILE_FORMAT`, `IO`
 */
export async function loadEmojiSet(set: EmojiSetName, base: string): Promise<EmojiSet> {
  if (!Object.hasOwn(ICONS, set)) throw new IFError('INVALID_ARGUMENT', `data.set: expected ${Object.keys(ICONS).join(' or ')}, got ${JSON.stringify(set)}`);
  const packages = [ICONS[set], NAMES];
  const folders = packages.map((name) => packageFolder(name, base));
  const missing = packages.filter((_, i) => folders[i] === undefined);
  if (missing.length > 0) {
    throw new IFError('NOT_FOUND', `emoji data: ${missing.join(' and ')} ${missing.length > 1 ? 'are' : 'is'} not installed in ${base}; run: npm install ${missing.join(' ')}`);
  }
  const [icons, names] = [folders[0]!, folders[1]!];
  const iconFile = await readJson<IconFile>(path.join(icons, 'icons.json'));
  const nameFile = await readJson<EmojiName[]>(path.join(names, 'en', 'data.json'));
  const versions = await Promise.all([icons, names].map(async (folder, i) => `${packages[i]} ${(await readJson<{ version: string }>(path.join(folder, 'package.json'))).version}`));
  if (typeof iconFile.icons !== 'object' || iconFile.icons === null || !Array.isArray(nameFile)) {
    throw new IFError('FILE_FORMAT', `emoji data: ${versions.join(' and ')} are not of the expected form; install newer or older versions`);
  }
  const emojis = nameFile.filter(isWanted).map((name) => emojiOf(name, iconFile)).filter((emoji) => emoji !== undefined);
  if (emojis.length === 0) throw new IFError('FILE_FORMAT', `emoji data: no name of ${versions[1]} fits an icon of ${versions[0]}`);
  return { emojis, versions: versions.join(', ') };
}

function packageFolder(name: string, base: string): string | undefined {
  for (const from of [path.join(path.resolve(base), 'package.json'), import.meta.url]) {
    try {
      return path.dirname(createRequire(from).resolve(`${name}/package.json`));
    } catch {
      // not there: the next place
    }
  }
  return undefined;
}

async function readJson<T>(file: string): Promise<T> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as T;
  } catch (error) {
    if (error instanceof SyntaxError) throw new IFError('FILE_FORMAT', `${file}: ${error.message}; install the package again`, { cause: error });
    throw ioError('reading', file, error);
  }
}

function isWanted({ group, hexcode }: EmojiName): boolean {
  const isClock = hexcode >= '1F550' && hexcode <= '1F567' && hexcode.length === 5;
  return groupOf(group) !== undefined && !isClock;
}

/** undefined: left out, or a regional indicator, which has none. */
function groupOf(number: number | undefined): EmojiGroup | undefined {
  return EMOJI_GROUPS.find((name) => GROUPS[name] === number);
}

/** `hot dog` → `hot-dog`, as iconify names its icons. */
function slug(name: string): string {
  return name.toLowerCase().normalize('NFD').replace(/[^a-z0-9\s-]/g, '').trim().replace(/[\s-]+/g, '-');
}

function emojiOf({ label, hexcode, group, tags = [] }: EmojiName, { icons, aliases = {}, width = 16, height = 16 }: IconFile): Emoji | undefined {
  // fluent names `mage` person-mage
  const key = [slug(label), `person-${slug(label)}`].find((name) => Object.hasOwn(icons, name) || Object.hasOwn(aliases, name));
  if (key === undefined) return undefined;
  const alias = Object.hasOwn(icons, key) ? undefined : aliases[key]!;
  if (alias?.rotate || alias?.vFlip) return undefined; // neither set has one
  const icon = alias ? icons[alias.parent] : icons[key];
  if (typeof icon?.body !== 'string') return undefined;
  return {
    hexcode,
    name: label,
    group: groupOf(group)!,
    captions: captionsFor(label, tags),
    body: icon.body,
    viewBox: `${icon.left ?? 0} ${icon.top ?? 0} ${icon.width ?? width} ${icon.height ?? height}`,
    mirrored: alias?.hFlip ?? false,
  };
}

/** A fixed list per emoji, so that every caption can be encoded before training. */
function captionsFor(name: string, tags: readonly string[]): string[] {
  const words = new Set(name.toLowerCase().split(/[^\p{L}\p{N}]+/u));
  const keywords = tags.filter((tag) => !words.has(tag.toLowerCase()));
  const captions = [name, name, name, name, `a ${name}`];
  for (const some of [keywords.slice(0, 3), keywords.slice(3, 6)]) if (some.length > 0) captions.push(`${name}, ${some.join(', ')}`);
  return captions;
}
