import { unescapeHtml, WINDOWS_1252_C1 } from './html.js';

const BYTE_OF = new Map([...WINDOWS_1252_C1].map((character, i) => [character, 0x80 + i]));
const CONTINUATION = `[\\x80-\\xbf${WINDOWS_1252_C1}]`;
// UTF-8 sequences (RFC 3629) whose bytes became one character each.
const SEQUENCE = `[\\xc2-\\xdf]${CONTINUATION}|[\\xe0-\\xef]${CONTINUATION}{2}|[\\xf0-\\xf4]${CONTINUATION}{3}`;
const MOJIBAKE = new RegExp(`(?:${SEQUENCE})+`, 'gu');
const ONE_SEQUENCE = new RegExp(`^(?:${SEQUENCE})$`, 'u');
// A line is repaired if it has two sequences side by side, or one that begins like those of accented Latin letters, of
// punctuation and arrows (U+2000-U+233F) or of emoji (U+1F000 …): "café……" also is three bytes of valid UTF-8.
const TELLING = /^(?:[ÂÃ]|â[€\x80‚†ˆ‰Š‹Œ]|ð[Ÿ\x9f])/u;
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function repairMojibake(line: string): string {
  const runs = line.match(MOJIBAKE) ?? [];
  if (!runs.some((run) => TELLING.test(run) || !ONE_SEQUENCE.test(run))) return line;
  const repaired = line.replace(MOJIBAKE, (run) => {
    try {
      return strictUtf8.decode(Uint8Array.from(run, (character) => BYTE_OF.get(character) ?? character.charCodeAt(0)));
    } catch {
      return run;
    }
  });
  return repaired === line ? line : repairMojibake(repaired); // encoded twice; a run halves each time, so this ends soon
}

// Two letters in one character: typographic ligatures, Dutch ij, Afrikaans 'n and the digraphs of Serbian and Croatian.
const LIGATURES: Record<string, string> = {
  ﬀ: 'ff', ﬁ: 'fi', ﬂ: 'fl', ﬃ: 'ffi', ﬄ: 'ffl', ﬅ: 'ſt', ﬆ: 'st', Ĳ: 'IJ', ĳ: 'ij', ŉ: 'ʼn',
  Ǳ: 'DZ', ǲ: 'Dz', ǳ: 'dz', Ǆ: 'DŽ', ǅ: 'Dž', ǆ: 'dž', Ǉ: 'LJ', ǈ: 'Lj', ǉ: 'lj', Ǌ: 'NJ', ǋ: 'Nj', ǌ: 'nj',
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join('')}]`, 'gu');

// The steps of ftfy.fix_and_explain, in its order.
const STEPS: ((text: string) => string)[] = [
  repairMojibake,
  (text) => text.replace(/[\x80-\x9f]/g, (control) => WINDOWS_1252_C1[control.charCodeAt(0) - 0x80]!),
  (text) => text.replace(LIGATURE, (ligature) => LIGATURES[ligature]!),
  (text) => text.replace(/[\uff01-\uffef\u3000]/g, (wide) => wide.normalize('NFKC')),
  (text) => text.replace(/[\u201c-\u201f]/g, '"').replace(/[\u02bc\u2018-\u201b]/g, "'"),
  (text) => text.replace(/\r\n|[\r\u2028\u2029\x85]/g, '\n'),
  (text) => text.replace(/[\ud800-\udfff]/gu, '\ufffd'), // with /u: unpaired surrogates only
  (text) => text.replace(/\x1b\[[\p{Nd};]*[a-zA-Z]/gu, ''), // terminal escapes
  (text) => text.replace(/[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g, ''),
  (text) => text.normalize('NFC'),
];

// Text needs two or three passes; one that was built to need thousands must not take quadratic time.
const MAX_PASSES = 16;

/** Decodes the references that end in a semicolon; `&#…;` that give one are left. */
function unescapeStrict(text: string): string {
  return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (reference) => {
    const decoded = unescapeHtml(reference);
    return decoded.includes(';') ? reference : decoded;
  });
}

/**
 * Repairs text as `ftfy.fix_text` (ftfy 6.3) with its defaults, line by line, until nothing changes:
 * HTML references (not from the first line with a `<` on); UTF-8 that was read as Latin-1 or Windows-1252; C1 controls as
 * Windows-1252; Latin ligatures; full-width and half-width forms; curly quotes; line ends; unpaired surrogates; terminal
 * escapes; control characters; NFC.
 *
 * Not covered: ftfy's full table of what is unlikely text (see TELLING for what is used instead), other encodings (Mac Roman,
 * Windows-1250 …), lost bytes, no-break spaces that became spaces, and references in capitals.
 */
export function fixText(text: string): string {
  let unescape = true;
  return text.split(/(?<=\n)/).map((line) => {
    unescape &&= !line.includes('<');
    for (let before = '', pass = 0; line !== before && pass < MAX_PASSES; pass++) {
      before = line;
      if (unescape) line = unescapeStrict(line);
      for (const step of STEPS) line = step(line);
    }
    return line;
  }).join('');
}
