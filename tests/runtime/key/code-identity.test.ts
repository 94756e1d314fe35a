/** The part of a stage's code that is in its key: each change below is made to a copy of the same two files. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type CodeIdentity, codeIdentity, FileDigests } from "../../../runtime/key/code-identity.ts"
import { Journal } from "../../../runtime/store/journal.ts"
import { type Opened, openHome } from "../fixture.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const files = {
  "stage.ts": `/** Shouts; § and 𝄞 are not ASCII. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../../data/dataset.ts"
import * as Stage from "../../../../runtime/define/stage.ts"
import { hyperInt } from "../../../../schemas/hyper.ts"
import { Texts } from "../../../../schemas/rows.ts"
import { clip, loud, type Text } from "./helper.ts"

const Config = Schema.Struct({ times: hyperInt(1, "§1: how often") })

export class Refused extends Schema.TaggedError<Refused>()("Refused", { message: Schema.String }) {}

export const shout = Stage.make("shout", {
  config: Config,
  inputs: { texts: Texts },
  output: Texts,
  run: Effect.fn("shout")(function* ({ config, inputs, output }) {
    const rows: Array<Text> = [...(yield* readRows(inputs.texts, Texts))]
    clip(rows, 100)
    return yield* writeDataset(output, rows.map(({ text }) => ({ text: loud(text).repeat(config.times) })))
  })
})

const OtherConfig = Schema.Struct({ size: hyperInt(1, "of the other") })
export class OtherError extends Schema.TaggedError<OtherError>()("OtherError", { message: Schema.String }) {}
export const other = Stage.make("other", {
  config: OtherConfig,
  inputs: { texts: Texts },
  output: Texts,
  run: Effect.fn("other")(function* ({ inputs, output }) {
    const rows = yield* Effect.promise(async () => await Promise.resolve(readRows(inputs.texts, Texts)))
    return yield* writeDataset(output, yield* rows)
  })
})
`,
  "helper.ts": `import { helper as deep } from "./deep.ts"
export interface Text { readonly text: string }
const mark = "!"
export const loud = (text: string): string => deep(text) + mark
export const clip = (rows: Array<Text>, length: number): void => { rows.length = Math.min(rows.length, length) }
export const table = new Map([["a", 1]])
export default Object.freeze({ unused: 1 })
`,
  "deep.ts": `export const helper = (text: string): string => text.toUpperCase()
export const later = await Promise.resolve(1)
`
}
type Name = keyof typeof files

let folder: string
let opened: Opened
let version = 0
beforeAll(() => {
  folder = workFolder()
  opened = openHome(join(folder, "home"))
})
afterAll(() => {
  opened.close()
  removeFolder(folder)
})

/** The identity of `shout` after these replacements: [file, old, new]. */
const identity = async (...changes: ReadonlyArray<readonly [Name, string | RegExp, string]>): Promise<CodeIdentity> => {
  const directory = join(folder, `v${version++}`)
  mkdirSync(directory)
  const written: Record<string, string> = { ...files }
  for (const [name, from, to] of changes) {
    const after = written[name]!.replace(from, to)
    expect(after).not.toBe(written[name])
    written[name] = after
  }
  for (const [name, text] of Object.entries(written)) writeFileSync(join(directory, name), text)
  const { shout } = (await import(pathToFileURL(join(directory, "stage.ts")).href)) as { readonly shout: AnyStage }
  const found = await opened.later(Journal.use((journal) => codeIdentity(shout.stage, journal, new FileDigests())))
  rmSync(directory, { recursive: true })
  return found
}

describe("the code of a stage is the same", () => {
  it.each<[string, [Name, string | RegExp, string]]>([
    ["in another folder", ["deep.ts", "export const helper", "export  const helper"]],
    ["with other comments", ["stage.ts", "/** Shouts;", "// Shouts loudly.\n/** Shouts;"]],
    ["with other formatting", ["helper.ts", "{ rows.length = Math", "{\n\n  rows.length =\n  Math"]],
    ["with other types", ["helper.ts", "readonly text: string }", "readonly text: string; readonly more?: number }"]],
    ["with another error class next to it", ["stage.ts", '("OtherError", {', '("OtherError", { code: Schema.Number, ']],
    ["with another stage's config next to it", ["stage.ts", '"of the other"', '"of the others"']],
    ["with another stage's body next to it", ["stage.ts", "Promise.resolve(readRows", "Promise.reject(readRows"]],
    ["with another unused constant in a helper's file", ["helper.ts", '["a", 1]', '["a", 2]']],
    ["with another unused default export in a helper's file", ["helper.ts", "unused: 1", "unused: 2"]]
  ])("%s", async (_, change) => {
    expect((await identity(change)).digest).toBe((await identity()).digest)
  })
})

describe("the code of a stage differs", () => {
  it.each<[string, [Name, string | RegExp, string]]>([
    ["when its body does", ["stage.ts", ".repeat(config.times)", ".repeat(config.times + 1)"]],
    ["when an argument of a call for its effect does", ["stage.ts", "clip(rows, 100)", "clip(rows, 99)"]],
    ["when a call for its effect is removed", ["stage.ts", "    clip(rows, 100)\n", ""]],
    ["when its config's default does", ["stage.ts", 'hyperInt(1, "§1', 'hyperInt(2, "§1']],
    ["when a constant that a helper uses does", ["helper.ts", 'mark = "!"', 'mark = "?"']],
    ["when a helper's helper does", ["deep.ts", "toUpperCase", "toLowerCase"]],
    [
      "when a module has an effect while it loads",
      ["deep.ts", "export const helper", "globalThis.process.title = 'x'\nexport const helper"]
    ],
    ["when a file is imported for its effect", ["helper.ts", "import { helper", 'import "../effect.ts"\nimport { helper']],
    ["when another package is used", ["deep.ts", "text.toUpperCase()", "text.toUpperCase() + String(Arrow.Utf8)"]]
  ])("%s", async (_, change) => {
    writeFileSync(join(folder, "effect.ts"), "Object.assign(globalThis, { caravanTest: 1 })\n")
    const changes = change[2].includes("Arrow") ? [change, ["deep.ts", /^/, 'import * as Arrow from "apache-arrow"\n'] as const] : [change]
    expect((await identity(...changes)).digest).not.toBe((await identity()).digest)
  })
})

describe("packages", () => {
  it("are those that the stage uses, with their dependencies", async () => {
    const { packages } = await identity()
    expect(Object.keys(packages)).toEqual(
      expect.arrayContaining(["node_modules/effect", "node_modules/apache-arrow", "node_modules/flatbuffers"])
    )
    // Imported for an export that the stage does not use.
    const unused = await identity(["helper.ts", /^/, 'import * as Wasm from "parquet-wasm"\nexport const wasm = () => Wasm\n'])
    expect(unused.packages).toEqual(packages)
    expect(unused.digest).toBe((await identity()).digest)
    // Imported dynamically.
    const later = await identity(["deep.ts", "text.toUpperCase()", 'text + String(import("parquet-wasm"))'])
    expect(Object.keys(later.packages)).toContain("node_modules/parquet-wasm")
  })
})

describe("the file list", () => {
  it("has every file that was included, by its path in the package", async () => {
    const { files: named, exportName } = await identity()
    expect(exportName).toBe("shout")
    expect(Object.keys(named).map((path) => path.replace(/^.*\/v\d+\//, ""))).toEqual(
      expect.arrayContaining(["stage.ts", "helper.ts", "deep.ts", "data/dataset.ts"])
    )
  })
})

describe("the cached identity", () => {
  const stageText = (from: string) => `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../../data/dataset.ts"
import * as Stage from "../../../../runtime/define/stage.ts"
import { Texts } from "../../../../schemas/rows.ts"
import { mark } from "${from}"
export const marked = Stage.make("marked", {
  config: Schema.Struct({}), inputs: { texts: Texts }, output: Texts, seeded: false,
  run: Effect.fn("marked")(function* ({ inputs, output }) {
    return yield* writeDataset(output, (yield* readRows(inputs.texts, Texts)).map(({ text }) => ({ text: text + mark })))
  })
})
`
  const place = async (from: string) => {
    const directory = join(folder, `cached${version++}`)
    mkdirSync(directory)
    const write = (name: string, text: string) => writeFileSync(join(directory, name), text)
    write("stage.ts", stageText(from))
    write("one.ts", `export const mark = "1"\n`)
    write("two.ts", `export const mark = "2"\n`)
    const imports = (to: string) => write("package.json", JSON.stringify({ name: "aliased", type: "module", imports: { "#mark": to } }))
    if (from.startsWith("#")) imports("./one.ts")
    const { marked } = (await import(pathToFileURL(join(directory, "stage.ts")).href)) as { readonly marked: AnyStage }
    const find = (digests = new FileDigests()) =>
      opened.later(Journal.use((journal) => Effect.map(codeIdentity(marked.stage, journal, digests), ({ digest }) => digest)))
    return { directory, write, imports, find }
  }

  it("is not that of another content if a file changes while the code is bundled", async () => {
    const { directory, find, write } = await place("./one.ts")
    const digests = new FileDigests()
    digests.of(join(directory, "one.ts"))
    write("one.ts", `export const mark = "3"\n`)
    const changed = await find(digests)
    write("one.ts", `export const mark = "1"\n`)
    const first = await find()
    expect(first).not.toBe(changed)
    write("one.ts", `export const mark = "3"\n`)
    expect(await find()).toBe(changed)
    write("one.ts", `export const mark = "1"\n`)
    expect(await find()).toBe(first)
  })

  it("changes with the file that an alias in package.json names", async () => {
    const { find, imports } = await place("#mark")
    const one = await find()
    imports("./two.ts")
    expect(await find()).not.toBe(one)
    imports("./one.ts")
    expect(await find()).toBe(one)
  })
})
