/**
 * Ways in which other systems' caches became stale or wrong, each shown not to happen here, from an edit to the result. The individual parts:
 * cache-key.test.ts, key-properties.test.ts, code-identity.test.ts, store.test.ts, single-flight.test.ts, tests/faults/.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync
} from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { fileAt, type Node } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent, RunResult } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import { openHome, services } from "../fixture.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const sources = {
  "stages.ts": `import { appendFileSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../../../data/dataset.ts"
import * as Stage from "../../../../runtime/define/stage.ts"
import { External } from "../../../../schemas/artifact.ts"
import { report } from "../../../../schemas/report.ts"
import { hyper, hyperInt } from "../../../../schemas/hyper.ts"
import { say } from "./helper.ts"

export const Said = report(Schema.Struct({ text: Schema.String }), "said/1")
class Refused extends Schema.TaggedError<Refused>()("Refused", { message: Schema.String }) {}

export const speak = Stage.make("speak", {
  config: Schema.Struct({
    words: Schema.Array(Schema.Union([Schema.String, Schema.Number, Schema.Boolean, Schema.Null])),
    does: hyper("", "what it does beside its work")
  }),
  inputs: { file: Stage.optional(External), before: Stage.many(Said) },
  output: Said,
  resources: { inProcess: true },
  seeded: false,
  run: Effect.fn("speak")(function* ({ config, inputs, output, progress }) {
    const read = inputs.file === undefined ? "" : readFileSync(inputs.file.path, "utf8")
    if (config.does === "meddle") {
      // Another content for a moment; then content and times are restored.
      const { atime, mtime } = statSync(inputs.file.path)
      writeFileSync(inputs.file.path, read.toUpperCase())
      writeFileSync(inputs.file.path, read)
      utimesSync(inputs.file.path, atime, mtime)
    }
    const before = inputs.before.map((ref) => JSON.parse(readFileSync(ref.path + "/report.json", "utf8")).text)
    yield* progress({ step: 1 })
    const done = yield* writeReport(output, { text: say([...before, read, ...config.words.map((word) => JSON.stringify(word))]) })
    if (config.does === "fail late") return yield* new Refused({ message: "after all was written" })
    return done
  })
})
`,
  "helper.ts": `import { mark } from "./deep.ts"
const separator = " "
export const say = (words: ReadonlyArray<string>): string => words.join(separator) + mark()
`,
  "deep.ts": `const table = { loud: "!" }
export const mark = (): string => table.loud
`
}
type Name = keyof typeof sources

let folder: string
let version = 0
beforeEach(() => {
  folder = workFolder()
  writeFileSync(join(folder, "words.txt"), "alpha")
})
afterEach(() => removeFolder(folder))
const home = () => join(folder, "home")

type Speak = (
  inputs: { file?: Node<any>; before?: ReadonlyArray<Node<any>> },
  config: { words?: ReadonlyArray<unknown>; does?: string }
) => Node<any>

/** The stage after these edits, loaded again as in a new process. */
const load = async (...edits: ReadonlyArray<readonly [Name, string, string]>): Promise<Speak> => {
  const directory = join(folder, `v${version++}`)
  mkdirSync(directory)
  for (const [name, text] of Object.entries(sources)) {
    const edited = edits.filter(([file]) => file === name).reduce((all, [, from, to]) => all.replace(from, to), text)
    if (edits.some(([file]) => file === name)) expect(edited).not.toBe(text)
    writeFileSync(join(directory, name), edited)
  }
  const { speak } = (await import(pathToFileURL(join(directory, "stages.ts")).href)) as {
    speak: (inputs: object, config: object) => Node<any>
  }
  return ({ file, before = [] }, { words = [], ...config }) => speak({ file, before }, { words, ...config })
}

interface Ran extends RunResult {
  readonly events: ReadonlyArray<RunEvent>
  /** Node -> its content and status. */
  readonly said: Readonly<Record<string, string>>
  readonly became: Readonly<Record<string, string>>
}
const runNodes = async (nodes: Readonly<Record<string, Node<any>>>, options: Partial<RunOptions> = {}): Promise<Ran> => {
  const events: Array<RunEvent> = []
  const named = Object.fromEntries(
    Object.entries(nodes).map(([name, node]) => [name, node.definition.name === undefined ? node.named(name) : node])
  )
  const result = await Effect.runPromise(
    run(
      Pipeline.make("speech", { params: Schema.Struct({}) }, () => named),
      {},
      {
        ...options,
        onEvent: (event) => {
          events.push(event)
          options.onEvent?.(event)
        }
      }
    ).pipe(Effect.provide(services(home(), {})))
  )
  const said = Object.entries(result.outputs).map(([name, output]) => {
    const { text } = JSON.parse(readFileSync(join(output.path, "report.json"), "utf8")) as { text: string }
    return [name, text] as const
  })
  return {
    ...result,
    events,
    said: Object.fromEntries(said),
    became: Object.fromEntries(result.nodes.map(({ id, status }) => [id, status]))
  }
}
const words = () => fileAt(join(folder, "words.txt"))
const objects = (): ReadonlyArray<string> => {
  const root = join(home(), "objects")
  return existsSync(root)
    ? readdirSync(root, { recursive: true, withFileTypes: true }).flatMap((entry) =>
        entry.isFile() ? [join(entry.parentPath, entry.name)] : []
      )
    : []
}

describe("helper functions that the key does not see (redun, flyte, DVC)", () => {
  it.each<[string, [Name, string, string], string]>([
    ["a constant of a helper", ["helper.ts", 'separator = " "', 'separator = "_"'], 'alpha_"x"!'],
    ["a helper's helper", ["deep.ts", "=> table.loud", "=> table.loud + table.loud"], 'alpha "x"!!'],
    ["a field of a table in a helper's file", ["deep.ts", '"!"', '"?"'], 'alpha "x"?']
  ])("%s that changes affects the result", async (_, edit, expected) => {
    expect((await runNodes({ a: (await load())({ file: words() }, { words: ["x"] }) })).said.a).toBe('alpha "x"!')
    const edited = await runNodes({ a: (await load(edit))({ file: words() }, { words: ["x"] }) })
    expect([edited.became.a, edited.said.a]).toEqual(["ran", expected])
  })

  it("a process that loaded the code before an edit makes nothing under the key of the code after it", async () => {
    const speak = await load()
    const directory = join(folder, `v${version - 1}`)
    expect((await runNodes({ a: speak({}, { words: [1] }) })).became.a).toBe("ran")
    writeFileSync(join(directory, "deep.ts"), sources["deep.ts"].replace('"!"', '"?"'))
    const edited = await runNodes({ a: speak({}, { words: [1] }) })
    expect(edited.nodes[0]).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/changed since .*loaded.*deep\.ts.*restart the program/)
    })
    // Comments do not count, and the new code's result is found.
    writeFileSync(join(directory, "deep.ts"), `// Edited.\n${sources["deep.ts"]}`)
    expect((await runNodes({ a: speak({}, { words: [2] }) })).said.a).toBe(" 2!")
  })

  it("nor does a process that was still loading during the edit", async () => {
    const speak = await load()
    await new Promise((resolve) => setTimeout(resolve, 20))
    writeFileSync(join(folder, `v${version - 1}`, "deep.ts"), sources["deep.ts"].replace('"!"', '"?"'))
    const edited = await runNodes({ a: speak({}, { words: [1] }) })
    expect(edited.nodes[0]).toMatchObject({ status: "failed", error: expect.stringMatching(/changed since .*loaded.*deep\.ts/) })
  })
})

describe("callables that are hashed by name (Tango)", () => {
  it("two stages with the same name, config and input, from two files, have two results", async () => {
    const [one, other] = [await load(), await load(["helper.ts", 'separator = " "', 'separator = "-"'])]
    const { said } = await runNodes({ one: one({}, { words: [1, 2] }), other: other({}, { words: [1, 2] }) })
    expect(said).toEqual({ one: " 1 2!", other: "-1-2!" })
  })
})

describe("unnecessary reruns (Snakemake)", () => {
  it("touching, copying and moving files, comments, types, formatting, another folder and more concurrency rerun nothing", async () => {
    const nodes = (speak: Speak, file = words(), next = speak) => {
      const first = speak({ file }, { words: ["x"] }).named("first")
      return { first, second: next({ before: [first, first] }, {}) }
    }
    expect((await runNodes(nodes(await load()))).said.second).toBe('alpha "x"! alpha "x"! !')
    const found = { first: "hit", second: "hit" }
    utimesSync(join(folder, "words.txt"), 1, 1)
    expect((await runNodes(nodes(await load()))).became).toEqual(found)
    renameSync(join(folder, "words.txt"), join(folder, "moved.txt"))
    const moved = fileAt(join(folder, "moved.txt"))
    const dressed = await load(["helper.ts", "const separator", "/** Between. */\nconst   separator: string"])
    expect((await runNodes(nodes(dressed, moved))).became).toEqual(found)
    const options = { jobs: 8, limits: { seconds: 100 }, checkpointSeconds: 7 }
    expect((await runNodes(nodes(await load(), moved), options)).became).toEqual(found)
    // Made again by other code, with the same result: its dependents are cached.
    const other = await load(["deep.ts", "table.loud", "String(table.loud)"])
    expect((await runNodes(nodes(other, moved, await load()))).became).toEqual({ first: "ran", second: "hit" })
  })
})

describe("empty or partial blobs that are served (Bazel)", () => {
  it("a truncated file of an object is not: the result is made again completely", async () => {
    const speak = await load()
    const nodes = () => ({ a: speak({ file: words() }, { words: ["x"] }) })
    const whole = await runNodes(nodes())
    const cuts = objects().flatMap((path) => {
      const { size } = statSync(path)
      return [0, 1, size >> 1, size - 1].map((length) => [path, length] as const)
    })
    expect(cuts.length).toBe(8)
    for (const [path, length] of cuts) {
      chmodSync(path, 0o644)
      truncateSync(path, length)
      const again = await runNodes(nodes())
      expect([path, length, again.became.a, again.said.a]).toEqual([path, length, "ran", whole.said.a])
      expect(again.nodes[0]!.digest).toBe(whole.nodes[0]!.digest)
    }
  })
})

describe("parts of a key without separators (Dagster), and values of different types treated as equal (Hamilton)", () => {
  it("words that join to the same text, and numbers, booleans and null next to their texts, all have separate results", async () => {
    const speak = await load()
    const lists: ReadonlyArray<ReadonlyArray<unknown>> = [
      ["1", "23"],
      ["12", "3"],
      ["123"],
      ["1", "2", "3"],
      [1, 23],
      [123],
      [1],
      ["1"],
      [true],
      ["true"],
      [null],
      ["null"],
      [],
      [""]
    ]
    const { said, became } = await runNodes(Object.fromEntries(lists.map((list, i) => [`n${i}`, speak({}, { words: list })])))
    expect(Object.values(became)).toEqual(lists.map(() => "ran"))
    // The stage's result for its words, by hand.
    expect(said).toEqual(
      Object.fromEntries(lists.map((list, i) => [`n${i}`, `${["", ...list.map((word) => JSON.stringify(word))].join(" ")}!`]))
    )
  })

  it("inputs that differ only in order and number have separate results", async () => {
    const speak = await load()
    const [a, b] = [speak({}, { words: ["a"] }), speak({}, { words: ["b"] })]
    const { said } = await runNodes({
      ab: speak({ before: [a, b] }, {}),
      ba: speak({ before: [b, a] }, {}),
      aab: speak({ before: [a, a, b] }, {})
    })
    expect(said).toMatchObject({ ab: ' "a"!  "b"! !', ba: ' "b"!  "a"! !', aab: ' "a"!  "a"!  "b"! !' })
  })
})

describe("ignored errors when writing to the cache (Nextflow)", () => {
  /** The status of two nodes while writing is broken, and after it is repaired. */
  const around = async (broken: () => void, mend: () => void) => {
    const speak = await load()
    const b = speak({ before: [speak({}, { words: [1] }).named("a")] }, {})
    await runNodes({ other: speak({}, { words: ["first, so that the store is there"] }) })
    broken()
    const failed = await runNodes({ b })
    mend()
    return { status: failed.status, nodes: failed.nodes, mended: (await runNodes({ b })).became }
  }
  const outcome = (message: RegExp) => ({
    status: "failed",
    nodes: [{ id: "a", status: "failed", error: expect.stringMatching(message) }, { status: "skipped" }],
    mended: { a: "ran", b: "ran" }
  })

  it("an error with an object fails its node, and the next run makes it", async () => {
    const root = join(home(), "objects")
    const found = await around(
      () => {
        renameSync(root, `${root}-away`)
        writeFileSync(root, "a file in the way")
      },
      () => {
        rmSync(root)
        renameSync(`${root}-away`, root)
      }
    )
    expect(found).toMatchObject(outcome(/^Committing a stage's output: .*run again/))
  })

  it("an error with its record fails its node, and the next run makes it", async () => {
    const journal = (sql: string) => {
      const database = new DatabaseSync(join(home(), "journal.db"))
      database.exec(sql)
      database.close()
    }
    const found = await around(
      () => journal("create trigger full before insert on traces begin select raise(abort, 'database or disk is full'); end"),
      () => journal("drop trigger full")
    )
    expect(found).toMatchObject(outcome(/disk is full.*run again/))
  })
})

describe("a failed job that is recorded as complete (Snakemake)", () => {
  it("is not, even if it failed after it had written everything: nothing of it is kept, and it runs again", async () => {
    const speak = await load()
    for (let i = 0; i < 2; i++) {
      const failed = await runNodes({ a: speak({}, { does: "fail late" }) })
      expect(failed.nodes[0]).toMatchObject({ status: "failed", error: "after all was written", digest: null })
    }
    expect(objects()).toEqual([])
    expect(readdirSync(join(home(), "tmp"))).toEqual([])
  })
})

describe("an input that changes while it is read (Bazel)", () => {
  const refused = { status: "failed", error: expect.stringMatching(/words\.txt changed while it was being read\. Nothing was recorded/) }

  it("and changes back, including times, is detected", async () => {
    const result = await runNodes({ a: (await load())({ file: words() }, { does: "meddle" }) })
    expect(result.nodes[0]).toMatchObject(refused)
    expect(objects()).toEqual([])
  })

  it("between hashing and reading is detected, with the same size and modification time", async () => {
    const speak = await load()
    const onEvent = (event: RunEvent) => {
      if (event.type !== "node-started") return
      const { atime, mtime } = statSync(join(folder, "words.txt"))
      writeFileSync(join(folder, "words.txt"), "aleph")
      utimesSync(join(folder, "words.txt"), atime, mtime)
    }
    expect((await runNodes({ a: speak({ file: words() }, {}) }, { onEvent })).nodes[0]).toMatchObject(refused)
    expect((await runNodes({ a: speak({ file: words() }, {}) })).said.a).toBe("aleph!")
  })
})

describe("a lost lease that does not stop the stage (Marin)", () => {
  it("keeps it from recording its result", async () => {
    const speak = await load()
    const onEvent = (event: RunEvent) => {
      if (event.type !== "progress") return
      const database = new DatabaseSync(join(home(), "leases.db"))
      database.exec("update flights set token = 'of somebody who took over'")
      database.close()
    }
    const result = await runNodes({ a: speak({}, {}) }, { onEvent })
    expect(result.nodes[0]).toMatchObject({ status: "failed", error: expect.stringMatching(/^Another run took over node "a"/) })
    const { close, journal } = openHome(home())
    expect(journal.trace(result.nodes[0]!.key!)).toBeUndefined()
    close()
    expect((await runNodes({ a: speak({}, {}) })).became.a).toBe("ran")
  })
})

describe("racing runs that do everything twice (redun)", () => {
  it("four concurrent runs make each of twelve nodes once", async () => {
    const speak = await load()
    const nodes = () => {
      const all: Record<string, Node<any>> = {}
      for (let i = 0; i < 12; i++) {
        const before = i < 4 ? [] : [all[`n${i - 4}`]!, all[`n${i - 3}`]!]
        all[`n${i}`] = speak({ before }, { words: [i] }).named(`n${i}`)
      }
      return all
    }
    const results = await Promise.all(Array.from({ length: 4 }, () => runNodes(nodes())))
    const counts = results.flatMap(({ nodes: made }) => made.map(({ status }) => status))
    expect(counts.filter((status) => status === "ran").length).toBe(12)
    expect(counts.filter((status) => status === "hit").length).toBe(36)
    expect(new Set(results.map(({ said }) => JSON.stringify(said))).size).toBe(1)
  })
})
