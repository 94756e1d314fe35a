// `npm test` after setup: types, lint, format, then the tests; with arguments (for vitest) only the tests. The last line counts the tests and is
// saved in .caravan/test-summary.txt for .ci/run.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"

const results = ".caravan/test-results.json"
const summary = ".caravan/test-summary.txt"

const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=default", "--reporter=json", `--outputFile.json=${results}`]
const args = process.argv.slice(2)
const checks = {
  types: ["node_modules/typescript/bin/tsc", "--noEmit", "-p", "."],
  lint: ["node_modules/oxlint/bin/oxlint", "--type-aware", "--quiet"],
  format: ["node_modules/oxfmt/bin/oxfmt", "--check", "."]
}

/**
 * "312 passed, 0 failed, 4 skipped" from vitest's results. A test file that could not be loaded counts as one failure, and so does a run that failed
 * although no test did: an error outside of the tests, which the results do not contain.
 */
const counts = ({ numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults }, ended) => {
  const broken = testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed")
  ).length
  const failures = numFailedTests + broken
  const outside = ended === "failed" && failures === 0 ? 1 : 0
  const skipped = numPendingTests + numTodoTests
  return `${numPassedTests} passed, ${failures + outside} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`
}

mkdirSync(".caravan", { recursive: true })
for (const file of [results, summary]) rmSync(file, { force: true })

const node = (command) => spawnSync(process.execPath, command, { stdio: "inherit" }).status === 0
const failed = args.length > 0 ? [] : Object.keys(checks).filter((name) => !node(checks[name]))
const ended = node([...vitest, ...args]) ? "passed" : "failed"
if (ended === "failed") failed.push("tests")

if (failed.length > 0)
  process.stdout.write(`\nFailed checks: ${failed.join(", ")}.${failed.includes("format") ? " `npm run format` fixes the format." : ""}\n`)
if (existsSync(results)) {
  const line = counts(JSON.parse(readFileSync(results, "utf8")), ended)
  writeFileSync(summary, `${line}\n`)
  process.stdout.write(`${line}\n`)
} else {
  process.stdout.write("vitest ended without results: see the error above.\n")
}
process.exit(failed.length > 0 || !existsSync(results) ? 1 : 0)
