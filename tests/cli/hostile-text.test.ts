/** Names and text from outside: properties that every object inherits are not known names, and no control character reaches a terminal unescaped. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
beforeAll(() => {
  folder = fixtureFolder()
})
afterAll(() => removeFolder(folder))

describe.each(["constructor", "toString", "__proto__", "hasOwnProperty"])("%s", (name) => {
  it("is an unknown parameter, field, node and grouping", async () => {
    const file = join(folder, "pipeline.ts")
    const attempts: ReadonlyArray<readonly [RegExp, ...ReadonlyArray<string>]> = [
      [/has no parameter "\w+"/, "plan", file, "--set", `${name}=1`],
      [/has no field "\w+"/, "run", file, "--set", `shout.${name}=1`],
      [/no node or output is named "\w+"/, "plan", file, "--set", `${name}.times=1`],
      [/no such node or output/, "run", file, "--only", name],
      [/no such parameter/, "sweep", file, "--over", `${name}=1,2`],
      [/has no field "\w+"/, "sweep", file, "--over", `shout.${name}=1,2`],
      [/--format must be text, mermaid or json/, "graph", file, "--format", name],
      [/no flag --\w+/, "runs", `--${name}`],
      [/Unknown command/, name]
    ]
    for (const [message, ...args] of attempts) {
      const { status, stdout, stderr } = await inProcess(folder, ...args)
      // A bug exits with 70, an accepted name with 0.
      expect([args, status, stdout, stderr]).toEqual([args, 2, "", expect.stringMatching(message)])
    }
  })
})

/** Colour, a window's title, an erased screen in C1, and a reversed writing direction. */
const hostile = "\u001b[31m\u001b]0;title\u0007\u009b2J\u202eevil\u2028\r"
const text = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../data/dataset.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper } from "../../../schemas/hyper.ts"
import { Texts } from "../../../schemas/rows.ts"
import { lines } from "./stages.ts"

const hostile = ${JSON.stringify(hostile)}
export const speak = Stage.make("speak", {
  config: Schema.Struct({ word: hyper("", "a word") }),
  inputs: { texts: Texts },
  output: Texts,
  resources: { tensors: true },
  run: Effect.fn("speak")(function* ({ config, inputs, output, progress }) {
    console.log("printed " + hostile + config.word)
    yield* progress({ step: 1, total: 2, message: hostile })
    yield* progress({ note: "noted " + hostile })
    const rows = yield* readRows(inputs.texts, Texts)
    if (config.word === "fail") return yield* Effect.fail(new Error("of " + rows.map(({ text }) => text).join()))
    if (config.word === "crash") {
      process.stderr.write("last words " + hostile)
      process.exit(3)
    }
    return yield* writeDataset(output, rows)
  })
})
export default Pipeline.make(hostile, { params: Schema.Struct({ word: hyper("", hostile) }), description: hostile }, ({ word }) => {
  const words = lines({ file: fileAt("words.txt") }).named("lines")
  return { [hostile]: speak({ texts: words }, { word }).named("node " + hostile) }
})
`
// oxlint-disable-next-line no-control-regex -- what must not be there
const unsafe = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/

describe("control characters in names, rows, errors, progress and output", () => {
  it("are escaped on the terminal by every command", { timeout: 120_000 }, async () => {
    writeFileSync(join(folder, "hostile.ts"), text)
    writeFileSync(join(folder, "words.txt"), `alpha ${hostile}\nbeta\n`)
    const node = `node ${hostile}`
    const shown = async (code: number, ...args: ReadonlyArray<string>) => {
      const runs = ["run", "sweep"].includes(args[0]!)
      const { status, stdout, stderr } = runs
        ? caravan(folder, ...args)
        : await inProcess(folder, ...args.map((arg) => (arg === "hostile.ts" ? join(folder, arg) : arg)))
      expect([args, unsafe.exec(stdout), unsafe.exec(stderr)]).toEqual([args, null, null])
      expect([args, status, stderr]).toEqual([args, code, expect.any(String)])
      if (args.includes("--json")) JSON.parse(stdout)
      return `${stdout}${stderr}`
    }
    expect(await shown(0, "run", "hostile.ts")).toContain("noted \\x1b[31m")
    await shown(0, "run", "hostile.ts", "--json")
    for (const line of (await shown(0, "run", "hostile.ts", "--events", "-")).trim().split("\n"))
      expect(() => line.startsWith("{") && JSON.parse(line)).not.toThrow()
    expect(await shown(1, "run", "hostile.ts", "--set", "word=fail", "--events", "events.ndjson")).toContain("alpha \\x1b[31m")
    expect(readFileSync(join(folder, "events.ndjson"), "utf8")).not.toMatch(unsafe)
    expect(await shown(1, "run", "hostile.ts", "--set", "word=crash")).toContain("last words \\x1b[31m")
    await shown(0, "run", "hostile.ts", "--help")
    for (const json of [[], ["--json"]]) {
      await shown(0, "plan", "hostile.ts", ...json)
      await shown(0, "why", "hostile.ts", node, ...json)
      await shown(0, "graph", "hostile.ts", ...json)
      await shown(0, "runs", ...json)
      await shown(0, "show", "latest", ...json)
      await shown(0, "diff", "latest~1", "latest", ...json)
      expect(await shown(0, "log", node, ...json)).toMatch(/printed \\+x1b\[31m/)
      await shown(0, "lineage", node, ...json)
      await shown(0, "du", ...json)
      await shown(0, "gc", "--max-size", "0", "--keep", "0", ...json)
      await shown(0, "pin", ...json)
      await shown(1, "sweep", "hostile.ts", "--over", "word=fail,a", ...json)
    }
    await shown(0, "graph", "hostile.ts", "--format", "mermaid")
    await shown(0, "log", node, "--follow")
    await shown(0, "show", hostile)
    await shown(2, "plan", `${hostile}.ts`)
    await shown(2, hostile)
    await shown(2, "plan", "hostile.ts", "--set", `${hostile}=1`)
    const { path } = JSON.parse(await shown(0, "log", node, "--json")) as { readonly path: string }
    expect(readFileSync(path, "utf8")).not.toMatch(unsafe)
  })
})

describe("read permission", () => {
  it("for the journal, leases and logs is restricted to their owner", () => {
    caravan(folder, "run", "pipeline.ts", "--set", "times=7")
    const run = JSON.parse(caravan(folder, "show", "latest", "--json").stdout) as {
      readonly nodes: ReadonlyArray<{ readonly log: string | null }>
    }
    const logs = run.nodes.flatMap(({ log }) => log ?? [])
    expect(logs.length).toBeGreaterThan(0)
    const files = ["journal.db", "journal.db-wal", "journal.db-shm", "leases.db"].map((name) => join(folder, "home", name))
    for (const file of [...files.filter((name) => existsSync(name)), ...logs])
      expect([file, statSync(file).mode & 0o777]).toEqual([file, 0o600])
  })
})

it("every command writes through cli/output.ts, or redraws through the live view", () => {
  const cli = new URL("../../cli/", import.meta.url).pathname
  const writers = readdirSync(cli, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .filter((name) => /\b(stdout|stderr|stream)\.write\(|\bconsole\./.test(readFileSync(join(cli, name), "utf8")))
  expect(writers.sort()).toEqual(["display/progress.ts", "display/reading.ts", "output.ts"])
})
