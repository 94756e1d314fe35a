/** A short round of fuzzing (tests/data/fuzz.ts says what is checked), and the seeds that once found something. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { fuzz } from "./fuzz.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-fuzz-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** 88: a messages field that is not a list, among others that are. 938125338: a tree of a thousand messages with seven ids, each of which got all replies of the others. */
const found = [88, 938_125_338]

it.each(found)("seed %i, which once found a bug", async (seed) => {
  await expect(fuzz(seed, folder)).resolves.toBeUndefined()
})

it("150 modified files end in rows, problems or one error", { timeout: 120_000 }, async () => {
  const wrong: Array<string> = []
  for (let seed = 0; seed < 150; seed++) await fuzz(seed, folder).catch((cause: Error) => wrong.push(`seed ${seed}: ${cause.message}`))
  expect(wrong).toEqual([])
})
