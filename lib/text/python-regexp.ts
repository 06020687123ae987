// What Python's re means by \w, \s and \d in str patterns (sre: str.isalnum or _, str.isspace, str.isdecimal). JavaScript's \w
// and \d are ASCII, and its \s has U+FEFF but not U+001C-U+001F and U+0085.
const CLASSES: Record<string, string> = {
  w: '\\p{L}\\p{N}_',
  s: '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000',
  d: '\\p{Nd}',
};
const WORD = `[${CLASSES.w}]`;
const BOUNDARY = `(?:(?<=${WORD})(?!${WORD})|(?<!${WORD})(?=${WORD}))`;

/**
 * A JavaScript expression (flag u is added) in which \w, \s, \d, \b, \W, \S and \D mean what they mean to Python's re. The
 * source is else JavaScript's; negated classes are not known within brackets.
 */
export function pythonRegExp(source: string, flags = 'g'): RegExp {
  let inBrackets = false;
  const translated = source.replace(/\\(.)|[[\]]/gsu, (token, escaped: string | undefined) => {
    if (escaped === undefined) inBrackets = token === '[';
    else if (escaped === 'b') return BOUNDARY;
    else if (Object.hasOwn(CLASSES, escaped)) return inBrackets ? CLASSES[escaped]! : `[${CLASSES[escaped]}]`;
    else if (Object.hasOwn(CLASSES, escaped.toLowerCase())) return `[^${CLASSES[escaped.toLowerCase()]}]`;
    return token;
  });
  return new RegExp(translated, `${flags}u`);
}
