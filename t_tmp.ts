import { openEmoji } from './lib/data/emoji.js'; import sharp from 'sharp'; import fs from 'node:fs';
for (const set of ['noto', 'fluent'] as const) {
  let t = performance.now();
  const d = await openEmoji({ set, split: 'validation' }, { base: '.', cacheDir: '/tmp/emojicache' });
  console.log(d.description, 'open', (performance.now() - t).toFixed(0), 'ms');
  for (const size of [64, 256, 1024]) { let n = 0; t = performance.now(); const first = (await d.load(0, { size, random: Math.random })); console.log(size, 'first', (performance.now() - t).toFixed(0)); t = performance.now(); for (; n < 20; n++) await d.load(n, { size, random: Math.random }); console.log('  each', ((performance.now() - t) / n).toFixed(2)); }
  const tiles = []; for (let i = 0; i < 48; i++) { const s = (await d.load(i % d.length, { size: 64, random: Math.random }))!; if (i < 12) console.log(s.key, s.caption); tiles.push({ input: Buffer.from(s.image), raw: { width: 64, height: 64, channels: 3 as const }, left: (i % 8) * 64, top: Math.floor(i / 8) * 64 }); }
  await sharp({ create: { width: 512, height: 384, channels: 3, background: 'white' } }).composite(tiles).png().toFile(`/tmp/emoji_${set}.png`);
  console.log(d.skipped); await d.close();
}
console.log(fs.readdirSync('/tmp/emojicache/pixels').map((f) => [f, fs.statSync('/tmp/emojicache/pixels/' + f).size]));
