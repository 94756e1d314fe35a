import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import * as Stage from "../../../runtime/define/stage.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { lines, upper, upperBy2 } from "../fixtures/mapped.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))

describe("a stage", () => {
  it("knows the module that defines it, maps it or pins it", async () => {
    const made = join(folder, "made.ts")
    writeFileSync(
      made,
      `import * as Schema from "effect/Schema"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const shout = Stage.make("shout", { config: Schema.Struct({}), inputs: { texts: Texts }, output: Texts, run: () => { throw new Error("never") } })
export const pinned = Stage.pinned("v1", Stage.make("pinned", { config: Schema.Struct({}), inputs: { texts: Texts }, output: Texts, run: shout.stage.run }))
`
    )
    const mapped = join(folder, "mapped.ts")
    writeFileSync(
      mapped,
      `import * as Stage from "../../../runtime/define/stage.ts"
import { shout } from "./made.ts"
export const byTwo = Stage.map(shout, { over: "texts", rows: 2 })
export const held = Stage.pinned("v1", Stage.map(shout, { over: "texts", rows: 3 }))
`
    )
    const modulesOf = async (path: string) => {
      const stages = (await import(pathToFileURL(path).href)) as Record<string, Stage.AnyStage>
      return Object.fromEntries(Object.entries(stages).map(([name, { stage }]) => [name, stage.module]))
    }
    const [first, second] = [pathToFileURL(made).href, pathToFileURL(mapped).href]
    expect(await modulesOf(made)).toEqual({ shout: first, pinned: first })
    expect(await modulesOf(mapped)).toEqual({ byTwo: second, held: second })
  })
})

describe("Stage.make", () => {
  it("rejects a config that is missing, or that another version of Effect made", () => {
    const make = (config: unknown) => () => Stage.make("loud", { ...upper.stage, module: import.meta, config } as never)
    expect(make(undefined)).toThrow(
      'Stage.make("loud"): expected a config, a Schema.Struct (`Schema.Struct({})` if it has no fields), found none.'
    )
    expect(make({ fields: {} })).toThrow(/found one of another version of Effect: install the version in Caravan's package\.json\.$/)
  })
})

describe("Stage.map", () => {
  it("rejects what can't be mapped, and says why", () => {
    const map =
      (options: object, stage: unknown = upper) =>
      () =>
        Stage.map(stage as typeof upper, options as { over: "texts"; rows: number })
    expect(map({ over: "words", rows: 2 })).toThrow(/Stage\.map\(upper, .*no input "words", only texts, more/)
    expect(map({ over: "more", rows: 2 })).toThrow(/the input "more" is not a single dataset/)
    expect(map({ over: "file", rows: 2 }, lines)).toThrow(/the input "file" is not a single dataset/)
    expect(map({ over: "texts", rows: 0 })).toThrow(/rows must be an integer, 1 or more/)
    expect(map({ over: "texts", rows: 2.5 })).toThrow(/rows must be/)
    expect(map({ over: "texts", rows: 3 }, upperBy2)).toThrow(/already mapped/)
  })
})
