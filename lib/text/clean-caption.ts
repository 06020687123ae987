import { htmlText, unescapeHtml } from './html.js';
import { pythonRegExp } from './python-regexp.js';
import { fixText } from './text-repair.js';

/** One rule: what a pattern matches is replaced (`$1` as in String.replace), or the text goes through a function. */
type Rule = readonly [pattern: RegExp, replacement: string] | ((text: string) => string);

const re = (strings: TemplateStringsArray): RegExp => pythonRegExp(strings.raw[0]!);

const OUTER_SPACE = pythonRegExp(String.raw`^\s+|(?<!\s)\s+$`);
const strip = (text: string): string => text.replace(OUTER_SPACE, '');

/** Python's urllib.parse.unquote_plus: + is a space, %XX are bytes of UTF-8. */
function unquotePlus(text: string): string {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  return text.replaceAll('+', ' ').replace(/(?:%[0-9A-Fa-f]{2})+/g, (bytes) => utf8.decode(Buffer.from(bytes.replaceAll('%', ''), 'hex')));
}

const HOST_RUN = /[a-zA-Z0-9.-]+/y;
const HOST = pythonRegExp(String.raw`[a-zA-Z0-9.-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)`, 'y');

/**
 * Deletes links: `scheme` with slashes or one character, and host names with a well-known top-level domain and their path. As
 * one expression it would try each place of a long run of letters and dots, in quadratic time; here a run in which no host
 * begins at the first place is done, since a host from a later place would end where one from the first does.
 */
function removeLinks(scheme: 'https?:' | 'www:'): (text: string) => string {
  const start = pythonRegExp(String.raw`(?<!\w)(?:(${scheme}(?:/{1,3}|[a-zA-Z0-9%]))|(?=[a-zA-Z0-9]))|(?<=\w)(?=[.-])`);
  return (text) => {
    if (!/[.:]/.test(text)) return text; // spares the search
    let kept = '';
    let keptFrom = 0;
    let noHostBefore = 0;
    start.lastIndex = 0;
    for (let match; (match = start.exec(text));) {
      let end = match.index;
      if (match[1] !== undefined) end = start.lastIndex;
      else if (match.index >= noHostBefore) {
        HOST.lastIndex = HOST_RUN.lastIndex = match.index;
        if (HOST.test(text)) end = HOST.lastIndex;
        else {
          HOST_RUN.test(text);
          noHostBefore = HOST_RUN.lastIndex;
        }
      }
      if (end > match.index) {
        kept += text.slice(keptFrom, match.index);
        keptFrom = end;
      }
      start.lastIndex = Math.max(end, match.index + 1);
    }
    return kept + text.slice(keptFrom);
  };
}

/** Deletes the part of each word up to its last file extension: the greedy `\S+\.(?:png|…)`, word by word to stay linear. */
const removeFileNames: Rule = (text) => text.replace(NON_SPACE, (word) => word.replace(FILE_NAME, ''));
const NON_SPACE = re`\S+`;
const FILE_NAME = /^[^]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)/u;

/** Names with hyphens or underscores, this-is-my-cute-cat: more than three in the text become spaces. */
const splitLongNames: Rule = (text) => ((text.match(/[-_]/g)?.length ?? 0) > 3 ? text.replace(/[-_]/g, ' ') : text);

/**
 * The rules of `_clean_caption` (huggingface/diffusers src/diffusers/pipelines/deepfloyd_if/pipeline_if.py; deep-floyd/IF
 * deepfloyd_if/modules/t5.py), in order. Where an expression there takes quadratic time, this one matches the same in linear
 * time: `(?<!\s)\s+` tries each run of spaces once, and `\d+\.?\d*` is written so that digits can be split in one way only.
 * A `\b` before a word character is written `(?<!\w)`, behind one `(?!\w)`, which is 100 times as fast.
 */
const RULES: readonly Rule[] = [
  unquotePlus,
  (text) => strip(text).toLowerCase(),
  [/<person>/g, 'person'],
  removeLinks('https?:'),
  removeLinks('www:'),
  htmlText,
  [re`@\w+`, ''], // @nickname
  [/[\u31c0-\u9fff]+/g, ''], // CJK: strokes, phonetic extensions, enclosed, compatibility, ideographs and extension A, Yijing
  [/[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+/g, '-'], // dashes
  [/[`´«»“”¨]/g, '"'],
  [/[‘’]/g, "'"],
  [/&quot;?/g, ''],
  [/&amp/g, ''],
  [re`\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`, ' '], // IP addresses
  [re`\d:\d\d\s+$`, ''], // article ids
  [/\\n/g, ' '], // a written line break
  [re`#\d{1,3}(?!\w)`, ''],
  [re`#\d{5,}(?!\w)`, ''],
  [re`(?<!\w)\d{6,}(?!\w)`, ''],
  removeFileNames,
  [/["']{2,}/g, '"'],
  [/\.{2,}/g, ' '],
  [/[#®•©™&@·º½¾¿¡§~()[\]{}|\\/*]+/g, ' '], // punctuation that is no part of a sentence
  [re`(?<!\s)\s+\.\s+`, ' '], // a lone full stop
  splitLongNames,
  fixText,
  (text) => unescapeHtml(unescapeHtml(text)),
  [re`(?<!\w)[a-zA-Z]{1,3}\d{3,15}(?!\w)`, ''], // jc6640
  [re`(?<!\w)[a-zA-Z]+\d+[a-zA-Z]+(?!\w)`, ''], // jc6640vc
  [re`(?<!\w)\d+[a-zA-Z]+\d+(?!\w)`, ''], // 6640vc231
  [re`(?:worldwide\s+)?(?:free\s+)?shipping`, ''],
  [re`(?:free\s)?download(?:\sfree)?`, ''],
  [re`(?<!\w)click\s(?:for|on)\s\w+`, ''],
  [re`(?<!\w)(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:\simages?)?`, ''],
  [re`(?<!\w)page\s+\d+(?!\w)`, ''],
  [re`(?<!\w)\d*[a-zA-Z]+\d+[a-zA-Z]+\d[a-zA-Z\d]*(?!\w)`, ' '], // j2d1a2a
  [re`(?<!\w)\d+(?:\.\d*)?[xх×]\d+(?:\.\d*)?\b`, ''], // 3x4, with Latin and Cyrillic x
  [re`(?<=\w)\s+:\s+`, ': '],
  [re`(\D[,./])(?=\w)`, '$1 '],
  [re`\s+`, ' '],
  [/^["']([^]+)["']$/u, '$1'], // quotes around the whole
  [/^['_,\-:;]/, ''],
  [/['_,\-:+]$/, ''],
  [re`^\.\S+$`, ''],
  strip,
];

function applyRules(text: string): string {
  return RULES.reduce((cleaned, rule) => (typeof rule === 'function' ? rule(cleaned) : cleaned.replace(rule[0], rule[1])), text);
}

/**
 * Cleans a caption as IF's training data and prompts were: `_text_preprocessing(text, clean_caption=True)` of diffusers, all
 * rules twice. Links, HTML, nicknames, Chinese and Japanese characters, brackets, `#`, file names and product numbers go;
 * quotes and dashes become plain; everything is lower case. Time is linear in the length.
 *
 * Differs from diffusers where ftfy repairs more kinds of mojibake (see `fixText`) and where BeautifulSoup raises an error.
 */
export function cleanCaption(text: string): string {
  return applyRules(applyRules(text));
}

/** The caption in lower case without white space around it: `_text_preprocessing(text, clean_caption=False)`. */
export function plainCaption(text: string): string {
  return strip(text.toLowerCase());
}

/**
 * What to tell the user when cleaning left nothing of a prompt.
 * @returns one line, or undefined when something is left or there was nothing
 */
export function captionWarning(original: string, cleaned: string): string | undefined {
  if (cleaned !== '' || strip(original) === '') return undefined;
  const characters = [...strip(original)];
  const shown = JSON.stringify(characters.length > 60 ? `${characters.slice(0, 60).join('')}…` : characters.join(''));
  return `the prompt ${shown} is empty after caption cleaning, which deletes Chinese and Japanese characters, links, numbers and `
    + 'symbols as IF was trained: describe the picture in English words, or turn caption cleaning off';
}
