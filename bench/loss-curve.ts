// The losses of a run as an SVG: `npx tsx bench/loss-curve.ts RUN/metrics.jsonl > curve.svg`. Points are means of the training
// loss over a fiftieth of the run; the line is the validation loss of the averaged weights.
import { readFileSync } from 'node:fs';

type Line = { step: number; group: string; loss: number; ema_loss?: number };
const lines = readFileSync(process.argv[2]!, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Line);
const last = Math.max(...lines.map(({ step }) => step));
const validation = lines.filter(({ group }) => group === 'validation').map(({ step, loss, ema_loss }) => [step, ema_loss ?? loss] as const);
const width = Math.ceil(last / 50);
const training = Array.from({ length: Math.ceil(last / width) }, (_, i) => {
  const part = lines.filter(({ group, step }) => group === 'train' && step > i * width && step <= (i + 1) * width);
  return [i * width + part.length / 2, part.reduce((sum, { loss }) => sum + loss, 0) / part.length] as const;
});

const [W, H, LEFT, BOTTOM, TOP, RIGHT] = [640, 320, 56, 40, 16, 16];
const values = [...training, ...validation].map(([, value]) => value);
const [low, high] = [0.95 * Math.min(...values), 1.02 * Math.max(...values)];
const x = (step: number): string => (LEFT + ((W - LEFT - RIGHT) * step) / last).toFixed(1);
const y = (value: number): string => (TOP + ((H - TOP - BOTTOM) * (high - value)) / (high - low)).toFixed(1);
/** About `count` round numbers in a range. */
function ticks(from: number, to: number, count: number): number[] {
  const rough = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough)!;
  return Array.from({ length: Math.floor(to / step) - Math.ceil(from / step) + 1 }, (_, i) => Number(((Math.ceil(from / step) + i) * step).toPrecision(6)));
}
const text = (at: string, content: string | number, anchor = 'middle'): string => `<text ${at} text-anchor="${anchor}">${content}</text>`;
console.log([
  `<svg xmlns="http://www.w3.org/2000/svg" width="${W}" height="${H}" viewBox="0 0 ${W} ${H}" font-family="sans-serif" font-size="12" fill="#333">`,
  `<rect width="${W}" height="${H}" fill="#fff"/>`,
  ...ticks(low, high, 5).flatMap((value) => [`<path d="M${LEFT} ${y(value)}H${W - RIGHT}" stroke="#ddd"/>`, text(`x="${LEFT - 6}" y="${Number(y(value)) + 4}"`, value, 'end')]),
  ...ticks(0, last, 6).map((step) => text(`x="${x(step)}" y="${H - BOTTOM + 18}"`, step)),
  text(`x="${(LEFT + W - RIGHT) / 2}" y="${H - 6}"`, 'step'),
  ...training.map(([step, value]) => `<circle cx="${x(step)}" cy="${y(value)}" r="2.5" fill="#9bb8d3"/>`),
  `<path d="M${validation.map(([step, value]) => `${x(step)} ${y(value)}`).join('L')}" fill="none" stroke="#c0392b" stroke-width="2"/>`,
  `<circle cx="${W - 190}" cy="${TOP + 10}" r="2.5" fill="#9bb8d3"/>`, text(`x="${W - 180}" y="${TOP + 14}"`, 'training, means', 'start'),
  `<path d="M${W - 196} ${TOP + 28}h12" stroke="#c0392b" stroke-width="2"/>`, text(`x="${W - 180}" y="${TOP + 32}"`, 'validation, averaged weights', 'start'),
  '</svg>',
].join('\n'));
