import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // a native crash then takes one worker only
    maxWorkers: 1, // the kernels use every core; parallel files would only fight for them
    testTimeout: 120_000,
  },
});
