import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { encodeEvent, TensorBoardWriter, type TensorBoardEvent } from '../../lib/training/tensorboard.js';
import { golden } from '../support/safetensors.js';

test("the bytes are those of TensorBoard's own writer (test/golden/tensorboard/make_events.py)", () => {
  const events: [number, TensorBoardEvent][] = [
    [1700000000.25, { type: 'version' }],
    [1700000001.5, { type: 'start', step: 300 }],
    [1700000002, { type: 'scalars', step: 0, scalars: { loss: 0.5 } }],
    [1700000003.125, { type: 'scalars', step: 301, scalars: { 'train/loss': 0.1, 'train/lr': 1e-5, zero: 0 } }],
    [1700000004, { type: 'scalars', step: 2 ** 40 + 7, scalars: { [`größe/${'x'.repeat(200)}`]: -3e38 } }],
  ];
  expect(Buffer.concat(events.map(([time, event]) => encodeEvent(event, time)))).toEqual(readFileSync(golden('tensorboard', 'events.golden')));
});

test('a file begins with its version, and with the step when a run goes on', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'if-events-'));
  try {
    const writer = await TensorBoardWriter.create(dir, 40);
    await writer.write({ type: 'scalars', step: 41, scalars: { loss: 1 } });
    await writer.close();
    const [name, ...others] = readdirSync(dir);
    expect(others).toEqual([]);
    expect(name).toMatch(/^events\.out\.tfevents\.\d{10}\./);
    const bytes = readFileSync(path.join(dir, name!));
    const lengths = [encodeEvent({ type: 'version' }, 1), encodeEvent({ type: 'start', step: 40 }, 1), encodeEvent({ type: 'scalars', step: 41, scalars: { loss: 1 } }, 1)].map((part) => part.length);
    expect(bytes.length).toBe(lengths[0]! + lengths[1]! + lengths[2]!);
    expect(bytes.includes('brain.Event:2')).toBe(true);
    // the time, 9 bytes after the record's header, is now
    expect(Math.abs(bytes.readDoubleLE(13) - Date.now() / 1000)).toBeLessThan(60);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
