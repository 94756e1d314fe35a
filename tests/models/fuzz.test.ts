/** A short round of fuzzing the readers of model folders (tests/models/fuzz.ts says what is checked). */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { fuzz } from "./fuzz.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-fuzz-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it("150 modified model folders end in a model whose questions carry no loss, or one error", { timeout: 120_000 }, async () => {
  const wrong: Array<string> = []
  for (let seed = 0; seed < 150; seed++) await fuzz(seed, folder).catch((cause: Error) => wrong.push(`seed ${seed}: ${cause.message}`))
  expect(wrong).toEqual([])
})
