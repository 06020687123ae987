import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { captionWarning, cleanCaption, plainCaption } from '../../lib/text/clean-caption.js';

interface Case {
  text: string;
  cleaned: string;
  plain: string;
}
const cases = JSON.parse(readFileSync(path.join(import.meta.dirname, '../golden/captions/cases.json'), 'utf8')) as Case[];

describe('captions that diffusers cleaned', () => {
  it('cleanCaption gives the same text for every one', () => {
    expect(cases.length).toBe(167);
    expect(cases.map(({ text }) => cleanCaption(text))).toEqual(cases.map(({ cleaned }) => cleaned));
  });

  it('plainCaption gives the same text for every one', () => {
    expect(cases.map(({ text }) => plainCaption(text))).toEqual(cases.map(({ plain }) => plain));
  });
});

describe('cleanCaption', () => {
  // Results of diffusers' _text_preprocessing with ftfy 6.3.1 and beautifulsoup4 4.15.
  it.each([
    ['mail me@x.com or foo.com@bar', 'mail me or foo. com'],
    ['a.b.co.uk is a host', '.uk is a host'],
    ['日本com a.com.b', 'com b'],
    ['٣٤٥٦٧٨٩ arabic digits', 'arabic digits'],
    ['ab１２３cd full', 'full'],
    ['tom&jerry', 'tom jerry'],
    ['a <script>x < y</script> b <rt>note</rt> c', 'a b c'],
    ['broken <b text', 'broken <b text'],
    ['one<!-- c -->two', 'onetwo'],
    ['\ufeffbom and \x1b[1mescape', 'bom and 1mescape'],
    ['x² 5m²', 'x² 5m²'],
    ['İstanbul ΣΑΣ', 'i̇stanbul σας'],
    ['a\x1cb\x85c', 'ab…c'],
  ])('%j', (text, cleaned) => {
    expect(cleanCaption(text)).toBe(cleaned);
  });

  const million = 1_000_000;
  it.each(['a', '1', ' ', '.', '-', '<', '&', '"', '%', '漢', 'é', '\n', '\\', 'a.', '<a', '<!--', '<!--x>', '&#', 'a1', '1.', '.com', 'free ', '<rt>', '<a x '])(
    'takes less than five seconds for a million of %j', (unit) => {
      const start = performance.now();
      cleanCaption(unit.repeat(million / unit.length));
      expect(performance.now() - start).toBeLessThan(5000);
    });

  it.each<[string, string]>([
    ['spaces between words', `a${' '.repeat(million)}b`],
    ['digits before a letter', `${'1'.repeat(million)}a`],
    ['an article number that does not end', `a1a${'1'.repeat(million)}é`],
    ['many attributes', `<a ${'b '.repeat(million / 2)}>`],
    ['nested references', `\uff06${'amp;'.repeat(million / 4)}`],
    ['a host that is refused', `a.com/${'-'.repeat(million)}@`],
    ['10,000 words', 'a photograph of a red apple, '.repeat(1667)],
  ])('takes less than five seconds for %s', (_, text) => {
    const start = performance.now();
    cleanCaption(text);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('cleans the same way again and again', () => {
    for (let i = 0; i < 3; i++) expect(cleanCaption('see www.a.com/x <b>Red</b> #12 apple')).toBe('see red apple');
  });
});

describe('captionWarning', () => {
  it('warns in one line when nothing is left', () => {
    for (const prompt of ['一只红苹果', 'ab12cd\n#123', '漢'.repeat(1000)]) {
      expect(cleanCaption(prompt)).toBe('');
      expect(captionWarning(prompt, '')).toMatch(/^[^\n]{50,400}$/);
    }
    expect(captionWarning('一只红苹果', '')).toContain('一只红苹果');
  });

  it('is silent when there was nothing or something is left', () => {
    expect(captionWarning('', '')).toBeUndefined();
    expect(captionWarning(' \n', '')).toBeUndefined();
    expect(captionWarning('Red', 'red')).toBeUndefined();
  });
});
