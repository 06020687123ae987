import { describe, expect, it } from 'vitest';
import { htmlText, unescapeHtml } from '../../lib/text/html.js';
import { pythonRegExp } from '../../lib/text/python-regexp.js';
import { fixText } from '../../lib/text/text-repair.js';

describe('htmlText', () => {
  // Results of BeautifulSoup(…, features="html.parser").text, beautifulsoup4 4.15.
  it.each([
    ['<b>bold</b> and <i class="x > y">it</i>', 'bold and it'],
    ['a < b & c > d', 'a < b & c > d'],
    ['&lt;b&gt; &amp;lt; &eacute &check x', '<b> &lt; é ✓ x'],
    ['&foo; &foo', '&foo &foo'],
    ['&#65; &#x41; &#128; &#0; &#xd800; &#1114112;', 'A A € \ufffd \ufffd \ufffd'],
    ['x &#; y &amp; z', 'x &#; y & z'],
    ['x &# y <b>z', 'x &# y <b>z'],
    ['end &a', 'end a'],
    ['end &', 'end &'],
    ['<script>a < b</script>c<style>d</style>', 'c'],
    ['c<script>never closed', 'c'],
    ['<template>a<p>b</p></template>c<rt>d</rt>e', 'ce'],
    ['<div><rt>a</div>b', 'b'],
    ['a<rt/>b', 'ab'],
    ['a<br>b<img src=x>c</br>d', 'abcd'],
    ['a<!-- b -- > c', 'a c'],
    ['a<!doctype html>b<?php c ?>d<!e>f', 'abdf'],
    ['a<![cdata[<b>]]>c', 'a<b>c'],
    ['a<![endif]>b', 'ab'],
    ['a </ b>c</>d', 'a cd'],
    ['a <b c', 'a <b c'],
    ['<b> \n </b>', '\n'],
    ['', ''],
  ])('%j', (html, text) => {
    expect(htmlText(html)).toBe(text);
  });
});

describe('unescapeHtml', () => {
  // Results of Python's html.unescape.
  it.each([
    ['&lt;&LT;&eacute;&copy', '<<é©'],
    ['&notit; &notin; &ampx &unknown;', '¬it; ∉ &x &unknown;'],
    ['&#65&#x41;&#128;&#xD800;&#x110000;', 'AA€\ufffd\ufffd'],
    ['a&#1;b&#xb;c&#x7f;d&#xFDD0;e&#x1fffe;f', 'abcdef'],
    ['&#0;&#13;&#x81;', '\ufffd\r\x81'],
    ['& &; &#; &#x;', '& &; &#; &#x;'],
    ['&nGt;', '≫⃒'],
  ])('%j', (html, text) => {
    expect(unescapeHtml(html)).toBe(text);
  });
});

describe('fixText', () => {
  // Results of ftfy.fix_text, ftfy 6.3.1.
  it.each([
    ['cafÃ© rÃ©sumÃ©', 'café résumé'],
    ['â€œquoteâ€\x9d â€¦ itâ€™s', '"quote" … it\'s'],
    ['\u00e2\u0080\u0099', "'"],
    ['Ã¢â‚¬Å“twiceÃ¢â‚¬Â\x9d', '"twice"'],
    ['ðŸ\x8dŽ apple', '🍎 apple'],
    ['Ð¿Ñ€Ð¸Ð²ÐµÑ‚', 'привет'],
    ['café… É» Straße«', 'café… É» Straße«'],
    ['naïve “quotes” ‘single’ ʼn', 'naïve "quotes" \'single\' \'n'],
    ['ﬁne ﬂow ĳ ǆ', 'fine flow ij dž'],
    ['ＦＵＬＬ　ﾊﾝ１', 'FULL ハン1'],
    ['a\r\nb\rc\u2028d\u2029e', 'a\nb\nc\nd\ne'],
    ['\x85', '…'],
    ['a\x1b[36;44mb\x1b[0m', 'ab'],
    ['a\0b\x7fc\ufeffd\ufff9e\ufffcf', 'abcdef'],
    ['e\u0301', 'é'],
    ['lone \ud83d surrogate \ud83c\udf4e', 'lone \ufffd surrogate 🍎'],
    ['&eacute; &lt;b&gt; &amp;amp;', 'é <b> &'],
    ['a<b &eacute;\n&eacute;', 'a<b &eacute;\n&eacute;'],
    ['&eacute;\na<b &eacute;', 'é\na<b &eacute;'],
  ])('%j', (text, fixed) => {
    expect(fixText(text)).toBe(fixed);
  });
});

describe('pythonRegExp', () => {
  it('knows the classes of Python', () => {
    const all = (source: string, text: string): string[] => text.match(pythonRegExp(source)) ?? [];
    expect(all(String.raw`\w`, 'aé漢٣²½_-\u0301 🍎')).toEqual(['a', 'é', '漢', '٣', '²', '½', '_']);
    expect(all(String.raw`\d`, '1٣²½')).toEqual(['1', '٣']);
    expect(all(String.raw`\s`, ' \x1c\x85\u3000\ufeff\u200b')).toEqual([' ', '\x1c', '\x85', '\u3000']);
    expect(all(String.raw`\b\w+\b`, 'éa-b ñ')).toEqual(['éa', 'b', 'ñ']);
    expect(all(String.raw`[\d/]+`, '1/٣a\\')).toEqual(['1/٣']);
    expect(all(String.raw`\D\S`, '1a b')).toEqual([' b']);
    expect(all(String.raw`\\w`, '\\w a')).toEqual(['\\w']);
  });
});
