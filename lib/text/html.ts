import { decodeHTML, decodeHTMLStrict } from 'entities';

/** What the bytes 0x80-0x9f are in Windows-1252; the five that it leaves free stay control characters. */
export const WINDOWS_1252_C1 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ';

// HTML 5, "Numeric character reference end state"
function numericReference(code: number): string {
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return '\ufffd';
  return code >= 0x80 && code <= 0x9f ? WINDOWS_1252_C1[code - 0x80]! : String.fromCodePoint(code);
}

/** A control or noncharacter, which Python's html.unescape drops. */
function isInvalid(code: number): boolean {
  return (code >= 1 && code <= 8) || code === 0x0b || (code >= 0x0e && code <= 0x1f) || code === 0x7f
    || (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
}

/**
 * Decodes HTML character references as Python's `html.unescape`: named ones by the longest name that HTML 5 knows (the old
 * ones without a semicolon, too), decimal and hexadecimal ones; controls and noncharacters vanish, others that are no
 * character become U+FFFD.
 */
export function unescapeHtml(text: string): string {
  return text.replace(/&(?:#(?:([0-9]+)|[xX]([0-9a-fA-F]+));?|[^\t\n\f <&#;]{1,32};?)/gu, (reference, decimal?: string, hex?: string) => {
    if (decimal === undefined && hex === undefined) return decodeHTML(reference);
    const code = decimal !== undefined ? parseInt(decimal, 10) : parseInt(hex!, 16);
    return code <= 0x10ffff && isInvalid(code) ? '' : numericReference(code);
  });
}

const VOID_ELEMENTS = new Set(['area', 'base', 'basefont', 'bgsound', 'br', 'col', 'command', 'embed', 'frame', 'hr', 'image', 'img',
  'input', 'isindex', 'keygen', 'link', 'menuitem', 'meta', 'nextid', 'param', 'source', 'spacer', 'track', 'wbr']);
// BeautifulSoup keeps what is in these apart from the text of the document.
const HIDDEN_ELEMENTS = new Set(['rp', 'rt', 'script', 'style', 'template']);

// A start tag up to its > or to what is no attribute: name, then name[=value] with spaces and slashes between.
const START_TAG = /<([a-zA-Z][^\t\n\r\f />\0]*)([\s/]*)(?:(?:(?<=['"\s/])[^\s/>][^\s/=>]*(?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*)\s*)?(?:\s|\/(?!>))*)*)?\s*/y;
const END_TAG = /<\/\s*([a-zA-Z][-.a-zA-Z0-9:_]*)\s*>|<\/([a-zA-Z][^\t\n\r\f />\0]*)[^>]*>/y;
const NUMERIC_REFERENCE = /&#(?:([0-9]+)|[xX]([0-9a-fA-F]+))(?:;|(?=[^0-9a-fA-F]))/y;
const NAMED_REFERENCE = /&([a-zA-Z][-.a-zA-Z0-9]*)(?:;|(?=[^a-zA-Z0-9;]))/y;

/** Finds end markers in one text; what was not found once is not searched again, so that all searches together stay linear. */
class Finder {
  private readonly absentFrom = new Map<RegExp, number>();
  constructor(private readonly text: string) {}

  /** Where the first match of `marker` (a /g expression) from `start` on begins and ends. */
  find(marker: RegExp, start: number): { index: number; end: number } | undefined {
    if (start >= (this.absentFrom.get(marker) ?? Infinity)) return undefined;
    marker.lastIndex = start;
    const match = marker.exec(this.text);
    if (match) return { index: match.index, end: marker.lastIndex };
    this.absentFrom.set(marker, start);
    return undefined;
  }
}

const TAG_END = />/g;
const SEMICOLON = /;/g;
const COMMENT_END = /--\s*>/g;
const SECTION_END = /\]\s*\]\s*>/g;
const CONDITION_END = /\]\s*>/g;
const RAW_TEXT_END = { script: /<\/\s*script\s*>/gi, style: /<\/\s*style\s*>/gi };

/**
 * The text of a piece of HTML: tags, comments, declarations and the content of script, style, template and ruby notes go,
 * character references are decoded. Reads as Python's html.parser under BeautifulSoup(…).text does, its leniency included:
 * markup that does not end is text. Where html.parser refuses (`<![` without a known word), the section goes up to its `>`,
 * as HTML 5 says.
 */
export function htmlText(html: string): string {
  return new TextExtractor(html).run();
}

class TextExtractor {
  private readonly finder: Finder;
  private readonly open: string[] = []; // the elements around the current place
  private readonly openCount = new Map<string, number>();
  private hidden = 0; // how many of them are HIDDEN_ELEMENTS
  private offset = 0; // the place in html
  private pending = ''; // the text since the last tag
  private text = '';

  constructor(private readonly html: string) {
    this.finder = new Finder(html);
  }

  run(): string {
    const { html } = this;
    const interesting = /[<&]/g;
    let closing = false;
    while (this.offset < html.length) {
      interesting.lastIndex = this.offset;
      const next = interesting.exec(html)?.index ?? html.length;
      this.pending += html.slice(this.offset, next);
      this.offset = next;
      if (next >= html.length) break;
      const complete = html[next] === '<' ? this.markup(closing) : this.reference();
      if (complete) continue;
      // html.parser stops twice at what may be incomplete: when the text is fed to it, and when it is closed.
      if (closing) {
        const rest = html.slice(this.offset);
        this.pending += /^&[a-zA-Z]$/.test(rest) ? rest[1] : rest; // a lone & and letter at the very end lose the &
        break;
      }
      closing = true;
    }
    this.flush();
    return this.text;
  }

  /** Ends a run of text. Runs of nothing but white space are shortened. */
  private flush(visible = this.hidden === 0): void {
    const run = this.pending;
    if (visible) this.text += /^[ \t\n\f\r]+$/.test(run) ? (run.includes('\n') ? '\n' : ' ') : run;
    this.pending = '';
  }

  private push(name: string): void {
    this.open.push(name);
    this.openCount.set(name, (this.openCount.get(name) ?? 0) + 1);
    if (HIDDEN_ELEMENTS.has(name)) this.hidden++;
  }

  private close(name: string): void {
    this.flush();
    if (!this.openCount.get(name)) return;
    for (let popped: string | undefined; popped !== name;) {
      popped = this.open.pop()!;
      this.openCount.set(popped, this.openCount.get(popped)! - 1);
      if (HIDDEN_ELEMENTS.has(popped)) this.hidden--;
    }
  }

  /** Reads what begins with <. @returns false when it does not end and more text might come */
  private markup(closing: boolean): boolean {
    const { html, offset } = this;
    const second = html[offset + 1];
    if (second === undefined) return false;
    let after: number | undefined;
    if (/[a-zA-Z]/.test(second)) after = this.startTag(offset);
    else if (second === '/') after = this.endTag(offset);
    else if (second === '!' || second === '?') after = this.declaration(offset);
    else {
      this.pending += '<';
      after = offset + 1;
    }
    if (after === undefined) {
      if (!closing) return false;
      const following = html.indexOf('<', offset + 1);
      after = this.finder.find(TAG_END, offset + 1)?.end ?? (following < 0 ? offset + 1 : following);
      this.pending += html.slice(offset, after);
    }
    this.offset = after;
    return true;
  }

  /** @returns the offset behind the start tag at `offset`, undefined when it does not end */
  private startTag(offset: number): number | undefined {
    if (!this.finder.find(TAG_END, offset)) return undefined; // cannot end: spares the scan
    START_TAG.lastIndex = offset;
    const [tag, written, slashes] = START_TAG.exec(this.html) as unknown as [string, string, string];
    const name = written.toLowerCase();
    const end = START_TAG.lastIndex;
    const slashBehind = this.html.startsWith('/>', end);
    const selfClosing = slashBehind || (slashes.endsWith('/') && tag.length === 1 + name.length + slashes.length);
    if (!slashBehind && this.html[end] !== '>') {
      if (end === this.html.length || /[a-zA-Z=/]/.test(this.html[end]!)) return undefined;
      this.pending += this.html.slice(offset, end);
      return end;
    }
    this.flush();
    if (!selfClosing && !VOID_ELEMENTS.has(name)) this.push(name);
    const after = end + (slashBehind ? 2 : 1);
    if (selfClosing || (name !== 'script' && name !== 'style')) return after;
    const closed = this.finder.find(RAW_TEXT_END[name], after);
    if (closed) this.close(name);
    return closed?.end ?? this.html.length;
  }

  private endTag(offset: number): number | undefined {
    const end = this.finder.find(TAG_END, offset + 1);
    if (!end) return undefined;
    END_TAG.lastIndex = offset;
    const match = END_TAG.exec(this.html);
    if (match) {
      this.close((match[1] ?? match[2])!.toLowerCase());
      return END_TAG.lastIndex;
    }
    if (end.end > offset + 3) this.flush(); // a comment; </> is nothing
    return end.end;
  }

  private declaration(offset: number): number | undefined {
    const { html, finder } = this;
    if (html.startsWith('<!--', offset)) {
      const comment = finder.find(COMMENT_END, offset + 4);
      if (comment) this.flush();
      return comment?.end;
    }
    const section = /^<!\[(temp|cdata|ignore|include|rcdata|(if|else|endif))(?![-_.a-z0-9])/i.exec(html.slice(offset, offset + 12));
    const end = section ? finder.find(section[2] ? CONDITION_END : SECTION_END, offset + 3) : finder.find(TAG_END, offset + 2);
    if (!end) return undefined;
    this.flush();
    if (section?.[1]!.toLowerCase() === 'cdata') {
      this.pending = html.slice(offset + '<![cdata['.length, end.index);
      this.flush(true);
    }
    return end.end;
  }

  /** Reads what begins with &. @returns false when it does not end and more text might come */
  private reference(): boolean {
    const { html, offset } = this;
    NUMERIC_REFERENCE.lastIndex = NAMED_REFERENCE.lastIndex = offset;
    const numeric = NUMERIC_REFERENCE.exec(html);
    const name = numeric ? undefined : NAMED_REFERENCE.exec(html)?.[1];
    if (numeric) {
      this.pending += numericReference(numeric[1] !== undefined ? parseInt(numeric[1], 10) : parseInt(numeric[2]!, 16));
      this.offset = NUMERIC_REFERENCE.lastIndex;
    } else if (name !== undefined) {
      // Any known name counts, with or without semicolon; an unknown one loses its semicolon.
      const decoded = decodeHTMLStrict(`&${name};`);
      this.pending += decoded === `&${name};` ? `&${name}` : decoded;
      this.offset = NAMED_REFERENCE.lastIndex;
    } else if (html[offset + 1] === '#' && this.finder.find(SEMICOLON, offset)) {
      this.pending += '&#';
      this.offset = offset + 2;
      return false;
    } else if (html[offset + 1] === undefined || /[a-zA-Z#]/.test(html[offset + 1]!)) return false;
    else {
      this.pending += '&';
      this.offset = offset + 1;
    }
    return true;
  }
}
