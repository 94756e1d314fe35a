import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts", "ui/tests/*.test.ts", "site/tests/*.test.ts"],
    // Minutes long: `npm run test:faults`.
    exclude: process.env.FAULTS === "all" ? [] : ["tests/**/*.slow.test.ts"],
    // libtorch is loaded once a process, and a native addon wants processes rather than threads.
    pool: "forks",
    // CI has two cores of one hyper-threaded pair.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000
  }
})
