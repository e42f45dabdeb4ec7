import { defineConfig } from "vitest/config";

// The tests in live.test.ts need a server.
const exclude = process.env.PENSTOCK_URL ? [] : ["test/live.test.ts"];

export default defineConfig({
  test: { include: ["test/**/*.test.ts"], exclude, testTimeout: 30_000, maxWorkers: 2, pool: "threads" },
});
