import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parseTimesteps, TIMESTEP_PRESETS, type SpacingConfig, type TimestepSpec } from '../../lib/diffusion/respacing.js';
import { roundHalfToEven } from '../../lib/round.js';
import { expectIFError } from '../support/expect-error.js';
import { golden } from '../support/safetensors.js';

const presets = JSON.parse(readFileSync(golden('schedulers', 'presets.json'), 'utf8')) as Record<string, number[]>;
const spacing = (timestepSpacing: SpacingConfig['timestepSpacing'], stepsOffset = 0): SpacingConfig =>
  ({ numTrainTimesteps: 1000, timestepSpacing, stepsOffset });

test('the presets are those of diffusers', () => {
  expect([...TIMESTEP_PRESETS].sort()).toEqual(Object.keys(presets).sort());
  for (const name of TIMESTEP_PRESETS) expect(parseTimesteps(name), name).toEqual(presets[name]);
});

describe('number of steps, as numpy 2.4 computes it in DDPMScheduler.set_timesteps', () => {
  test.each<[SpacingConfig, number, number[]]>([
    [spacing('leading'), 8, [875, 750, 625, 500, 375, 250, 125, 0]],
    [spacing('leading'), 7, [852, 710, 568, 426, 284, 142, 0]],
    [spacing('leading', 1), 4, [751, 501, 251, 1]],
    [spacing('linspace'), 8, [999, 856, 714, 571, 428, 285, 143, 0]],
    [spacing('linspace'), 7, [999, 832, 666, 500, 333, 166, 0]], // 832.5 → 832, 499.5 → 500, 166.5 → 166
    [spacing('linspace'), 1, [0]],
    [spacing('trailing'), 8, [999, 874, 749, 624, 499, 374, 249, 124]],
    [spacing('trailing'), 16, [999, 937, 874, 811, 749, 687, 624, 561, 499, 437, 374, 311, 249, 187, 124, 61]], // 62.5 → 62
    [spacing('trailing'), 1, [999]],
  ])('%o, %i steps', (config, count, expected) => expect(parseTimesteps(count, config)).toEqual(expected));

  test('every count gives that many strictly descending timesteps in range', () => {
    for (const kind of ['leading', 'linspace', 'trailing'] as const) {
      for (let count = 1; count <= 1000; count++) {
        const list = parseTimesteps(count, spacing(kind));
        expect(list.length).toBe(count);
        expect(parseTimesteps(list)).toEqual(list); // passes the checks of explicit lists
      }
    }
  });
});

test('section counts', () => {
  expect(parseTimesteps('10,10,3,2,2')).toEqual(presets.fast27);
  expect(parseTimesteps(' 2, 1 ')).toEqual([500, 499, 0]);
  expect(parseTimesteps('3')).toEqual([999, 500, 0]); // 499.5 → 500
  expect(parseTimesteps('2,0,0,0,0')).toEqual([199, 0]); // a partial schedule starts with less noise
  expect(parseTimesteps('1000')).toEqual(Array.from({ length: 1000 }, (_, i) => 999 - i));
  expect(parseTimesteps('1,1,1').reverse()).toEqual([0, 334, 667]); // the first section has one timestep more
});

test('explicit lists', () => expect(parseTimesteps([900, 10, 0])).toEqual([900, 10, 0]));

test.each<[TimestepSpec, string[]]>([
  ['smart5', ['unknown schedule "smart5"', 'did you mean "smart50"?', 'fast27']],
  ['ddim50', ['unknown schedule']],
  ['', ['unknown schedule']],
  ['__proto__', ['unknown schedule']],
  ['10,-3', ['unknown schedule']],
  ['1001', ['section 1 of 1', '0 to 1000', '1001']],
  ['300,10,10,10', ['section 1 of 4', '250', '300']],
  ['0,0', ['at least one step']],
  [0, ['from 1 to 1000', 'got 0']],
  [-5, ['-5']],
  [1001, ['1001']],
  [2.5, ['2.5']],
  [NaN, ['NaN']],
  [[], ['empty']],
  [[1, 2], ['strictly descending', '1 before 2']],
  [[5, 5], ['strictly descending']],
  [[1000, 1], ['timesteps[0]', '999', '1000']],
  [[3, -1], ['timesteps[1]', '-1']],
  [[3.5], ['3.5']],
])('refuses %o', (spec, parts) => expectIFError('INVALID_ARGUMENT', () => parseTimesteps(spec), ...parts));

test('an offset that leaves the range is refused', () =>
  expectIFError('INVALID_ARGUMENT', () => parseTimesteps(1000, spacing('leading', 1)), '1000'));

test('roundHalfToEven', () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, 2.6, -2.6, 7, 0.49999999999999994].map((x) => roundHalfToEven(x) + 0)).toEqual([0, 2, 2, 0, -2, 2, 3, -3, 7, 0]);
});
