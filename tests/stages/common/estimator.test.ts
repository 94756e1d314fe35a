/** How estimates are found, and that they are not part of the code in keys. */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { codeIdentity, FileDigests } from "../../../runtime/key/code-identity.ts"
import { Journal } from "../../../runtime/store/journal.ts"
import { estimatorOf } from "../../../stages/common/cost/estimator.ts"
import { sized, unknownSize } from "../../../stages/common/cost/size.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { type Opened, openHome } from "../../runtime/fixture.ts"
import { repeat, repeatCost, repeatInParts, repeatPinned, repeatPinnedInParts, sft } from "./own-estimates.ts"

describe("the estimate of a stage", () => {
  it("is found in its module, also for a user's own stage", async () => {
    const estimator = await estimatorOf(repeat.stage)
    expect(estimator).toBe(repeatCost)
    const texts = sized(unknownSize, { rows: 50 })
    expect(estimator!.size({ config: { times: 3 }, inputs: { texts }, expected: {} }).rows).toBe(150)
    expect((await estimatorOf(sample.stage))!.estimates).toBe(sample.stage)
  })
  it("is that of the original stage for a mapped or pinned one", async () => {
    for (const { stage } of [repeatInParts, repeatPinned, repeatPinnedInParts]) expect(await estimatorOf(stage)).toBe(repeatCost)
  })
  it("is not another stage's with the same name", async () => {
    expect(sft.stage.name).toBe("sft")
    expect(await estimatorOf(sft.stage)).toBeUndefined()
  })
})

describe("the code in a key", () => {
  const root = fileURLToPath(new URL("../../../", import.meta.url))
  let folder: string
  let opened: Opened
  beforeAll(() => {
    folder = workFolder()
    opened = openHome(join(folder, "home"))
  })
  afterAll(() => {
    opened.close()
    removeFolder(folder)
  })

  let version = 0
  /** The digest of the SFT stage's code in a copy of the stages, after these replacements: [file, old, new]. */
  const digest = async (...changes: ReadonlyArray<readonly [string, string, string]>): Promise<string> => {
    const copy = join(folder, `v${version++}`)
    mkdirSync(copy)
    for (const name of ["data", "engine", "models", "runtime", "schemas", "node_modules", "package.json", "package-lock.json"])
      symlinkSync(join(root, name), join(copy, name))
    cpSync(join(root, "stages"), join(copy, "stages"), { recursive: true })
    for (const [file, from, to] of changes) {
      const path = join(copy, "stages", file)
      const before = readFileSync(path, "utf8")
      expect(before).toContain(from)
      writeFileSync(path, before.replace(from, to))
    }
    const module = (await import(pathToFileURL(join(copy, "stages/training/sft.ts")).href)) as { readonly sft: AnyStage }
    return (await opened.later(Journal.use((journal) => codeIdentity(module.sft.stage, journal, new FileDigests())))).digest
  }

  it("is unchanged by an edit of the estimate, and of its helpers", async () => {
    const before = await digest()
    expect(await digest(["training/sft.ts", "size: ({ inputs }) => inputs.init,", "size: ({ inputs }) => inputs.demonstrations,"])).toBe(
      before
    )
    expect(await digest(["training/cost.ts", "1 + Math.ceil(steps", "2 + Math.ceil(steps"])).toBe(before)
    expect(await digest(["common/cost/work.ts", "rows * length", "rows * length + 1"])).toBe(before)
    expect(await digest(["common/cost/size.ts", "rows: NaN", "rows: 0"])).toBe(before)
  })
  it("changes with an edit of the stage, and of the code that chooses its micro-batch", async () => {
    const before = await digest()
    expect(await digest(["training/sft.ts", 'seed, "sft"', 'seed, "SFT"'])).not.toBe(before)
    expect(await digest(["training/fit.ts", "enoughTokens = 4096", "enoughTokens = 8192"])).not.toBe(before)
  })
})
