// webdataset shards, and every way in which a tar archive can lie.
import { execFileSync } from 'node:child_process';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import type { Dataset } from '../../lib/data/dataset.js';
import { openDataset } from '../../lib/data/open.js';
import { resolveShards, shardNames } from '../../lib/data/shards.js';
import { listTar } from '../../lib/data/tar.js';
import { expectIFError } from '../support/expect-error.js';
import { plain, temporaryFolder } from '../support/pictures.js';
import { paxRecord, tar, tarMember, type TarEntry } from '../support/tar.js';

const RED = await plain(6, 4, [255, 0, 0]).png().toBuffer();
const BLUE = await plain(6, 4, [0, 0, 255]).jpeg({ quality: 100 }).toBuffer();

async function write(content: Uint8Array, name = 'a.tar'): Promise<string> {
  const file = path.join(await temporaryFolder(), name);
  await writeFile(file, content);
  return file;
}
const open = (file: string | string[], more: { captionColumn?: string } = {}): Promise<Dataset> =>
  openDataset({ type: 'webdataset', path: file, flip: false, ...more }, { base: '/', cacheDir: null });
async function loadAll(dataset: Dataset): Promise<Record<string, string>> {
  const all: Record<string, string> = {};
  for (let i = 0; i < dataset.length; i++) {
    const sample = await dataset.load(i, { width: 4, height: 4, random: () => 0 });
    if (sample) all[sample.key] = `${sample.caption}: ${sample.image[0]! > 200 ? 'red' : 'blue'}`;
  }
  return all;
}
const reasons = (dataset: Dataset): Record<string, string> => Object.fromEntries(dataset.skipped.map(({ key, reason }) => [key, reason]));
async function captions(dataset: Dataset): Promise<string[]> {
  const all: string[] = [];
  for await (const caption of dataset.captions()) all.push(caption);
  return all;
}

test('samples by their names up to the first dot, whatever lies beside them', async () => {
  const file = await write(tar(
    { name: 'x/', type: '5' }, { name: '0001.png', content: RED }, { name: '0001.txt', content: ' red \n' }, { name: '0001.seg.png', content: BLUE }, { name: '0001.cls', content: '3' },
    { name: 'x/0001.jpg', content: BLUE }, { name: 'x/0001.txt', content: 'blue' }, { name: 'b.JPG', content: BLUE }, { name: 'b.TXT', content: 'also blue' },
  ));
  const dataset = await open(file);
  expect(dataset.length).toBe(3);
  expect(dataset.description).toBe(`webdataset ${file}, 3 pictures`);
  expect(await loadAll(dataset)).toEqual({ 'a.tar/0001': 'red: red', 'a.tar/x/0001': 'blue: blue', 'a.tar/b': 'also blue: blue' });
  expect(dataset.skipped).toEqual([]);
  expect(await captions(dataset)).toEqual(['red', 'blue', 'also blue']);
});

test('captions in a member of the .json file', async () => {
  const file = await write(tar(
    { name: 'a.png', content: RED }, { name: 'a.json', content: '{"title": ["red", "a red square"], "n": 1}' },
    { name: 'b.png', content: RED }, { name: 'b.json', content: '{"n": 2}' }, { name: 'c.png', content: RED }, { name: 'c.json', content: '{' }, { name: 'd.png', content: RED }, { name: 'd.json', content: '{"title": 4}' },
  ));
  const dataset = await open(file, { captionColumn: 'title' });
  expect(await loadAll(dataset)).toEqual({ 'a.tar/a': 'red: red' });
  expect(reasons(dataset)).toEqual({ 'a.tar/b': 'it has no caption', 'a.tar/c': 'its caption file is not JSON in UTF-8', 'a.tar/d': 'its caption must be a text or a list of texts, got number' });
  expect(await captions(dataset)).toEqual(['red', 'a red square']);
  await expectIFError('INVALID_ARGUMENT', () => open(file, { captionColumn: 'titel' }), /a\.tar\/a\.json: no column "titel"; it has "title", "n"; name the member of the captions with captionColumn/);
});

test('several shards: ranges, folders, lists', async () => {
  const folder = await temporaryFolder();
  await mkdir(path.join(folder, 'in'));
  for (const i of [8, 9, 10]) await writeFile(path.join(folder, 'in', `s-${String(i).padStart(3, '0')}.tar`), tar({ name: 'a.png', content: RED }, { name: 'a.txt', content: String(i) }));
  await writeFile(path.join(folder, 'in', 'notes.md'), '');
  const want = { 's-008.tar/a': '8: red', 's-009.tar/a': '9: red', 's-010.tar/a': '10: red' };
  for (const name of ['in/s-{008..010}.tar', 'in', ['in/s-008.tar', 'in/s-{009..010}.tar']]) {
    const dataset = await openDataset({ type: 'webdataset', path: name }, { base: folder, cacheDir: null });
    expect(await loadAll(dataset)).toEqual(want);
    expect(dataset.description).toBe(`webdataset ${path.join(folder, 'in', 's-008.tar')} and 2 more, 3 pictures`);
  }
  expect(await resolveShards(path.join(folder, 'in', 's-{008..008}.tar'), '.tar')).toHaveLength(1);
  expect([shardNames(['/a/x.tar', '/b/y.tar']), shardNames(['/a/x.tar', '/b/x.tar'])]).toEqual([['x.tar', 'y.tar'], ['/a/x.tar', '/b/x.tar']]);
  await expectIFError('NOT_FOUND', () => resolveShards(path.join(folder, 'in', 's-{008..011}.tar'), '.tar'), /s-011\.tar does not exist/);
  await expectIFError('NOT_FOUND', () => resolveShards(folder, '.parquet'), /has no \.parquet file/);
  await expectIFError('NOT_FOUND', () => resolveShards([], '.tar'), /names no file/);
  await expectIFError('INVALID_ARGUMENT', () => resolveShards([path.join(folder, 'in'), path.join(folder, 'in', 's-009.tar')], '.tar'), /s-009\.tar is named twice/);
  await expectIFError('INVALID_ARGUMENT', () => resolveShards('{5..4}.tar', '.tar'), /got \{5\.\.4\}/);
  await expectIFError('INVALID_ARGUMENT', () => resolveShards('{0..99999999}.tar', '.tar'), /at most 100000 files/);
  await expectIFError('INVALID_ARGUMENT', () => resolveShards('{0..9999}-{0..9999}.tar', '.tar'), /names more than 100000 files/);
});

const long = `${'long/'.repeat(40)}0001`;
test('long and non-ASCII names: ustar prefix, pax, GNU', async () => {
  const file = await write(tar(
    { name: 'p.png', prefix: 'some/where', content: RED },
    { name: 'PaxHeaders/x', type: 'x', content: paxRecord('mtime', '1.5') + paxRecord('path', `${long}.png`) }, { name: 'short.png', content: RED },
    { name: '././@LongLink', type: 'L', magic: 'ustar  \0', content: `${long}é.png\0` }, { name: 'cut', magic: 'ustar  \0', content: RED },
    { name: 'global', type: 'g', content: paxRecord('comment', 'x') }, { name: 'é.png', content: RED },
  ));
  const { members, leftOut } = await listTar(file);
  expect(leftOut).toEqual([]);
  expect(members.map(({ name, size }) => [name, size])).toEqual([['some/where/p.png', RED.length], [`${long}.png`, RED.length], [`${long}é.png`, RED.length], ['é.png', RED.length]]);
});

test('sizes in the extended header and in binary', async () => {
  const binary = Buffer.alloc(12);
  binary[0] = 0x80;
  binary.writeUInt32BE(RED.length, 8);
  const file = await write(tar(
    { name: 'x', type: 'x', content: paxRecord('size', String(RED.length)) }, { name: 'a.png', content: RED, claims: 0 }, { name: 'b.png', content: RED, claims: binary },
    { name: 'c.png', content: RED, claims: Buffer.from(`  ${RED.length.toString(8)} \0`.padEnd(12, '\0'), 'latin1') },
  ));
  expect((await listTar(file)).members.map(({ name, size }) => [name, size])).toEqual([['a.png', RED.length], ['b.png', RED.length], ['c.png', RED.length]]);
});

test('archives of the tar program, in each of its formats', async () => {
  const folder = await temporaryFolder();
  const deep = path.join('d'.repeat(60), 'e'.repeat(60));
  await mkdir(path.join(folder, deep), { recursive: true });
  const names = ['a.png', path.join(deep, 'f.png')];
  for (const name of names) await writeFile(path.join(folder, name), RED);
  await writeFile(path.join(folder, 'large.bin'), Buffer.alloc(300_000));
  for (const format of ['ustar', 'pax', 'gnutar']) {
    execFileSync('tar', ['--format', format === 'gnutar' ? 'gnu' : format, '-cf', `${format}.tar`, 'a.png', 'large.bin', deep], { cwd: folder });
    const { members, leftOut } = await listTar(path.join(folder, `${format}.tar`));
    expect(leftOut).toEqual([]);
    expect(members.map(({ name, size }) => [name, size])).toEqual([['a.png', RED.length], ['large.bin', 300_000], [names[1]!.split(path.sep).join('/'), RED.length]]);
  }
});

test('nothing leads out of the archive, links are not followed, samples that are not whole are named', async () => {
  const good: TarEntry[] = [{ name: 'good.png', content: RED }, { name: 'good.txt', content: 'red' }];
  const dataset = await open(await write(tar(
    { name: '../out.png', content: RED }, { name: '/etc/abs.png', content: RED }, { name: 'x/../../y.png', content: RED }, { name: 'none', content: 'x' },
    { name: 'link.png', type: '2' }, { name: 'hard.png', type: '1' }, { name: 'device.png', type: '3' }, { name: 'pipe.png', type: '6' },
    ...good, { name: 'good.jpg', content: BLUE }, { name: 'good.txt', content: 'again' },
    { name: 'alone.png', content: RED }, { name: 'words.txt', content: 'x' },
    { name: 'empty.png', content: '' }, { name: 'empty.txt', content: 'x' }, { name: 'blank.png', content: RED }, { name: 'blank.txt', content: '' },
    { name: 'bytes.png', content: RED }, { name: 'bytes.txt', content: Uint8Array.of(0xff, 0xfe) }, { name: 'bad.png', content: 'hello' }, { name: 'bad.txt', content: 'x' },
  )));
  expect(await loadAll(dataset)).toEqual({ 'a.tar/good': 'red: red' });
  expect(reasons(dataset)).toEqual({
    'a.tar: ../out.png': 'its name could lead out of the archive', 'a.tar: /etc/abs.png': 'its name could lead out of the archive',
    'a.tar: x/../../y.png': 'its name could lead out of the archive', 'a.tar: none': 'its name has no extension',
    'a.tar: link.png': 'it is a link, expected a file', 'a.tar: hard.png': 'it is a link, expected a file',
    'a.tar: device.png': 'it is not a plain file', 'a.tar: pipe.png': 'it is not a plain file',
    'a.tar: good.jpg': 'its sample has a picture already', 'a.tar: good.txt': 'its sample has a caption already',
    'a.tar/alone': 'it has no .txt file', 'a.tar/words': 'it has no picture',
    'a.tar/empty': 'its file is empty', 'a.tar/blank': 'it has no caption', 'a.tar/bytes': 'its caption file is not UTF-8',
    'a.tar/bad': 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture',
  });
});

test('members that claim terabytes, archives that are cut off or damaged: what is whole before is used', async () => {
  const good = Buffer.concat([tarMember({ name: 'good.png', content: RED }), tarMember({ name: 'good.txt', content: 'red' })]);
  const binary = Buffer.alloc(12);
  binary[0] = 0x80;
  binary.writeUInt32BE(0x400, 4);
  const after = tarMember({ name: 'late.png', content: RED });
  const cases: [string, Buffer, string, RegExp][] = [
    ['octal terabytes', Buffer.concat([good, tarMember({ name: 'big.png', content: RED, claims: 0o77777777777 })]), 'a.tar: big.png', /^it claims 8589934591 bytes, but the archive ends after \d+$/],
    ['binary terabytes', Buffer.concat([good, tarMember({ name: 'big.png', content: RED, claims: binary })]), 'a.tar: big.png', /^it claims 4398046511104 bytes/],
    ['pax terabytes', Buffer.concat([good, tarMember({ name: 'x', type: 'x', content: paxRecord('size', '9007199254740991') }), tarMember({ name: 'big.png', content: RED })]), 'a.tar: big.png', /^it claims 9007199254740991 bytes/],
    ['cut off in a member', Buffer.concat([good, tarMember({ name: 'big.png', content: BLUE }).subarray(0, 700)]), 'a.tar: big.png', /^it claims/],
    ['cut off in a header', Buffer.concat([good, Buffer.alloc(100, 1)]), `a.tar: byte ${good.length}`, /ends inside a header/],
    ['a wrong sum', Buffer.concat([good, tarMember({ name: 'x.png', content: RED, wrongSum: 1 }), after]), `a.tar: byte ${good.length}`, /no tar header here; the rest of the archive is left out/],
    ['a size that is no number', Buffer.concat([good, tarMember({ name: 'x.png', claims: Buffer.from('123456789x1\0') }), after]), `a.tar: byte ${good.length}`, /no tar header here/],
    ['a size beyond 2^53', Buffer.concat([good, tarMember({ name: 'x.png', claims: Buffer.concat([Buffer.of(0x80), Buffer.alloc(11, 0xff)]) }), after]), `a.tar: byte ${good.length}`, /no tar header here/],
  ];
  for (const [name, bytes, key, reason] of cases) {
    const dataset = await open(await write(bytes));
    expect([name, await loadAll(dataset)]).toEqual([name, { 'a.tar/good': 'red: red' }]);
    expect([name, dataset.skipped]).toEqual([name, [{ key, reason: expect.stringMatching(reason) }]]);
  }
});

test('refused as a whole', async () => {
  await expectIFError('NOT_FOUND', async () => open(path.join(await temporaryFolder(), 'none.tar')), /none\.tar does not exist/);
  await expectIFError('FILE_FORMAT', async () => open(await write(gzipSync(tar({ name: 'a.png', content: RED })))), /a\.tar: it is not a tar archive, but compressed with gzip/);
  await expectIFError('FILE_FORMAT', async () => open(await write(Buffer.concat([gzipSync(Buffer.alloc(10)), Buffer.alloc(600, 7)]))), /compressed with gzip; unpack it first/);
  await expectIFError('FILE_FORMAT', async () => open(await write(Buffer.alloc(2000, 'x'))), /it is not a tar archive$/);
  await expectIFError('FILE_FORMAT', async () => open(await write(Buffer.from('x'))), /it is not a tar archive$/);
  await expectIFError('FILE_FORMAT', async () => open(await write(tar({ name: 'x', type: 'x', content: 'nonsense' }, { name: 'a.png' }))), /a damaged extended header at byte 512/);
  await expectIFError('FILE_FORMAT', async () => open(await write(tar({ name: 'x', type: 'x', content: paxRecord('size', '-5') }, { name: 'a.png' }))), /a damaged size/);
  await expectIFError('FILE_FORMAT', async () => open(await write(tar({ name: 'x', type: 'L', content: Buffer.alloc(2 ** 20 + 1) }, { name: 'a.png' }))), /an extended header of 1048577 bytes/);
  await expectIFError('NOT_FOUND', async () => open(await write(tar())), /no usable picture/);
  await expectIFError('NOT_FOUND', async () => open(await write(Buffer.alloc(0))), /no usable picture/);
  await expectIFError('NOT_FOUND', async () => open(await write(tar({ name: 'a.png', content: RED }, { name: 'b.png', content: RED }))), /no usable picture: 2 left out, the first: a\.tar\/a: it has no \.txt file/);
});

test('an archive that shrinks after it was opened', async () => {
  const file = await write(tar({ name: 'a.txt', content: 'red' }, { name: 'a.png', content: RED }));
  const dataset = await open(file);
  await truncate(file, 1600);
  expect(await loadAll(dataset)).toEqual({});
  expect(reasons(dataset)).toEqual({ 'a.tar/a': 'reading a.tar: it was cut off since it was opened' });
});
