// The check of the CUDA compilation's output finds what it is there for.
import { expect, test } from 'vitest';
// @ts-expect-error a script without types
import { checkPtxas } from '../.ci/check-ptxas.mjs';

const kernel = (name: string, spilled: number) => `ptxas info    : Compiling entry function '${name}' for 'sm_80'
ptxas info    : Function properties for ${name}
    0 bytes stack frame, ${spilled} bytes spill stores, ${spilled} bytes spill loads
ptxas info    : Used 44 registers, used 1 barriers, 64 bytes smem, 376 bytes cmem[0]
`;
const notice = (code: string) =>
  `ptxas info    : (${code}) Potential Performance Loss: wgmma.mma_async instructions are serialized in function '_Z1c'\n`;

test('a clean log', () => {
  expect(checkPtxas(kernel('_Z1a', 0) + kernel('_Z1b', 0))).toEqual({ kernels: ['_Z1a for sm_80', '_Z1b for sm_80'], problems: [] });
  expect(checkPtxas('ninja: no work to do.\n')).toEqual({ kernels: [], problems: [] });
});

test('spills', () => {
  expect(checkPtxas(kernel('_Z1a', 0) + kernel('_Z1b', 60)).problems).toEqual([
    '_Z1b for sm_80: 60 bytes spill stores, 60 bytes spill loads',
  ]);
});

test.each(['C7508', 'C7510', 'C7519'])('%s', (code) => {
  expect(checkPtxas(kernel('_Z1a', 0) + notice(code)).problems).toHaveLength(1);
});
