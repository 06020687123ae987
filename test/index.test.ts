// The public API: what the README and docs/ use.
import { expect, test } from 'vitest';
import * as api from '../lib/index.js';

test('what the package exports', () => {
  expect(Object.keys(api)).toEqual(expect.arrayContaining([
    'Cascade', 'IFError', 'TIMESTEP_PRESETS', 'defineConfig', 'diffengineToDiffusers', 'diffusersToOriginal', 'imageAt', 'inspect', 'isSound', 'originalToDiffusers', 'publish',
    'readTrainingConfig', 'rewriteModel', 'train', 'writePng',
  ]));
});

test('inspect, as a program calls it', async () => {
  const report = await api.inspect('models/if-emoji');
  expect(report).toMatchObject({ kind: 'pipeline', className: 'IFPipeline' });
  expect(api.isSound(report)).toBe(true);
});
