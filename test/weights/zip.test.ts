import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseCentralHeader, ZipReader } from '../../lib/weights/zip-reader.js';
import { centralHeader, zipChunks } from '../../lib/weights/zip-writer.js';
import { expectIFError } from '../support/expect-error.js';
import { zipFile, type TestEntry } from '../support/torch-file.js';

let dir: string;
beforeEach(() => { dir = mkdtempSync(path.join(tmpdir(), 'if-zip-')); });
afterEach(() => rmSync(dir, { recursive: true }));

function put(bytes: Uint8Array): string {
  const file = path.join(dir, 'x.zip');
  writeFileSync(file, bytes);
  return file;
}
/** Opens and reads every entry. */
async function readAll(file: string): Promise<Record<string, string>> {
  const zip = await ZipReader.open(file);
  try {
    const contents: Record<string, string> = {};
    for (const [name, entry] of zip.entries) contents[name] = (await zip.read(entry)).toString('latin1');
    return contents;
  } finally {
    await zip.close();
  }
}
const text = (name: string, content: string, more: Partial<TestEntry> = {}): TestEntry => ({ name, bytes: Buffer.from(content), ...more });
const refused = (entries: TestEntry[], ...parts: (string | RegExp)[]): Promise<void> => expectIFError('FILE_FORMAT', () => readAll(put(zipFile(entries))), ...parts);

test('stored, deflated and empty entries; zip64 fields', async () => {
  expect(await readAll(put(zipFile([text('a', 'stored'), text('b/c', 'x'.repeat(5000), { deflate: true }), text('é', ''), text('64', 'sixty-four', { zip64: true })]))))
    .toEqual({ a: 'stored', 'b/c': 'x'.repeat(5000), 'é': '', 64: 'sixty-four' });
  expect(await readAll(put(zipFile([])))).toEqual({});
});

test('a part of an entry', async () => {
  const zip = await ZipReader.open(put(zipFile([text('a', '0123456789'), text('b', '0123456789', { deflate: true })])));
  for (const name of ['a', 'b']) expect((await zip.read(zip.entries.get(name)!, 3, 4)).toString()).toBe('3456');
  await expectIFError('FILE_FORMAT', () => zip.read(zip.entries.get('a')!, 8, 4), 'bytes 8 to 12 of 10');
  await zip.close();
});

test('what is written is read', async () => {
  const contents = { 'x/data.pkl': 'pickle', 'x/data/0': 'y'.repeat(1000), 'x/empty': '' };
  const chunks: Uint8Array[] = [];
  for await (const chunk of zipChunks(Object.entries(contents).map(([name, content]) => ({ name, bytes: Buffer.from(content) })))) chunks.push(chunk);
  expect(await readAll(put(Buffer.concat(chunks)))).toEqual(contents);
});

test('an entry beyond 4 GiB, in the directory', () => {
  const entry = { name: Buffer.from('x/data/7'), size: 5e9, crc: 123, header: 9e9 };
  const { entry: read } = parseCentralHeader(centralHeader(entry), 0, 'x');
  expect(read).toEqual({ name: 'x/data/7', method: 'stored', size: 5e9, packedSize: 5e9, crc32: 123, header: 9e9 });
  const { entry: far } = parseCentralHeader(centralHeader({ ...entry, size: 10 }), 0, 'x');
  expect(far).toMatchObject({ size: 10, header: 9e9 });
});

describe('archives that are up to no good', () => {
  test.each(['../evil', 'a/../../evil', '/etc/passwd', 'a//b', './a', 'C:\\evil', 'c:evil', 'a\\..\\b', 'a\u0000b', '', 'a\n'])('the name %j', (name) =>
    refused([text(name, 'x')], 'leads out of the archive'));
  test('a name that is not UTF-8', () => refused([text('a', 'x', { rawName: Buffer.from([0xff]) })], 'not UTF-8'));
  test('one name twice', () => refused([text('a', '1'), text('a', '2')], 'two entries are called "a"'));
  test('another name in the local header', () => refused([text('a', 'x', { localName: 'b' })], 'the local header calls it "b"'));
  test('overlapping entries', async () => {
    await refused([text('a', 'x'.repeat(100)), text('b', 'y', { lies: { header: 20 } })], 'overlaps');
    await refused([text('a', 'x'.repeat(100)), text('b', 'x'.repeat(100), { lies: { header: 0 } })], 'overlaps');
  });
  test('sizes that lie', async () => {
    await refused([text('a', 'x', { lies: { size: 2 ** 31, packedSize: 2 ** 31 } })], 'overlaps what begins at');
    await refused([text('a', 'x', { lies: { size: 10 } })], 'stored, but 1 bytes are said to hold 10');
    await refused([text('a', 'x', { lies: { size: 2 ** 52, packedSize: 2 ** 52 }, zip64: true })], 'overlaps what begins at');
    await refused([text('a', 'x'.repeat(50), { deflate: true, lies: { size: 49 } })], 'more than the 49 bytes it claims');
    await refused([text('a', 'x'.repeat(50), { deflate: true, lies: { size: 51 } })], 'unpacks to 50 bytes, not the 51');
    await refused([text('a', 'x', { lies: { header: 5 } })], /no local header|overlaps/);
    await refused([text('a', 'x', { lies: { header: 1e9 } })], 'overlaps');
  });
  test('a bomb: few bytes that claim terabytes', async () => {
    await refused([text('a', '\0'.repeat(1e6), { deflate: true, lies: { size: 1e12 }, zip64: true })], 'cannot hold 1000000000000');
    await refused([text('a', '\0'.repeat(1e6), { deflate: true, lies: { size: 10 } })], 'more than the 10 bytes it claims');
  });
  test('damaged content', async () => {
    await refused([text('a', 'x', { lies: { crc: crc32('y') } })], 'checksum');
    await refused([text('a', 'plain', { lies: { method: 8 } })], 'cannot be unpacked');
    await refused([text('a', 'x', { lies: { method: 12 } })], 'compression method 12');
    await refused([text('a', 'x', { lies: { flags: 1 } })], 'encrypted');
  });
  test('counts that lie', async () => {
    await expectIFError('FILE_FORMAT', () => readAll(put(zipFile([text('a', 'x')], 2))), 'expected an entry');
    await expectIFError('FILE_FORMAT', () => readAll(put(zipFile([text('a', 'x'), text('b', 'x')], 1))), 'bytes after its 1 entries');
  });
  test('every way of being cut off', async () => {
    const whole = zipFile([text('a', 'content'), text('b', 'more', { zip64: true })]);
    for (let length = 0; length < whole.length; length++) await expectIFError('FILE_FORMAT', () => readAll(put(whole.subarray(0, length))));
    await expectIFError('FILE_FORMAT', () => readAll(put(Buffer.concat([whole, Buffer.from('x')]))), 'no end of central directory');
  });
  test('a file that shrinks while it is open', async () => {
    const file = put(zipFile([text('a', 'x'.repeat(10_000)), text('b', 'y')]));
    const zip = await ZipReader.open(file);
    truncateSync(file, 5000);
    await expectIFError('FILE_FORMAT', () => zip.read(zip.entries.get('a')!), 'cut off');
    await zip.close();
  });
  test('a folder, and nothing', async () => {
    await expectIFError('FILE_FORMAT', () => ZipReader.open(dir), 'folder');
    await expectIFError('NOT_FOUND', () => ZipReader.open(path.join(dir, 'none')), 'no such file');
  });
  test('single flipped bytes never give other content', async () => {
    const whole = zipFile([text('a', 'content'), text('b', 'more '.repeat(20), { deflate: true })]);
    const expected = { a: 'content', b: 'more '.repeat(20) };
    for (let at = 0; at < whole.length; at++) {
      const damaged = Buffer.from(whole);
      damaged[at]! ^= 0x41;
      const read = await readAll(put(damaged)).catch(() => undefined);
      // fields that no reader uses (times, versions, attributes, sizes in the local header) may change; a name in both places cannot
      if (read) expect(read).toEqual(expected);
    }
  });
});
