import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
    // Tests with real processes share two cores there; the report names what passed in its second try.
    retry: process.env.CI ? 1 : 0,
  },
})
