/** Every error of a stage says whether a retry may help, and the scheduler uses that, in whatever process the stage ran. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { AnyNode } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import type { RunResult } from "../../runtime/run/events.ts"
import { run } from "../../runtime/run/run.ts"
import { removeFolder, workFolder } from "../cli/caravan.ts"
import { services } from "../runtime/fixture.ts"
import { failing, failingHere, failingInParts, final, passing, texts } from "./failing.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const sources = ["data", "engine", "models", "schemas", "stages"].flatMap((layer) =>
  readdirSync(join(root, layer), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => `${layer}/${file}`)
)

/** The tagged error classes in formatted source text: each from its heading to the end of its body. */
const errorClasses = (text: string): ReadonlyArray<{ readonly name: string; readonly declaration: string }> => {
  const lines = text.split("\n")
  return lines.flatMap((line, from) => {
    const name = /^(?:export )?class (\w+) extends /.exec(line)?.[1]
    if (name === undefined) return []
    const length = lines.slice(from).findIndex((end) => end === "}" || end.endsWith("{}")) + 1
    const declaration = lines.slice(from, from + length).join("\n")
    return /TaggedError|ExplainedError|Data\.Error|_tag/.test(declaration) ? [{ name, declaration }] : []
  })
}
const saysSo = (declaration: string) => /\bisRetryable\b|extends ExplainedError</.test(declaration)

describe("a tagged error class", () => {
  it("of stages, models, data, schemas or engine says whether a retry may help", () => {
    const all = sources.flatMap((file) =>
      errorClasses(readFileSync(join(root, file), "utf8")).map(({ name, declaration }) => ({ name, file, says: saysSo(declaration) }))
    )
    expect(all.filter(({ says }) => !says)).toEqual([])
    // All are found: those with which a stage can be made to fail by hand are among them.
    const names = new Set(all.map(({ name }) => name))
    const made = [...Object.keys(final), ...Object.keys(passing)]
      .map((kind) => kind.split(" ")[0]!)
      .filter((name) => name.endsWith("Error"))
    expect([...new Set(made)].filter((name) => !names.has(name))).toEqual([])
    expect(names.size).toBeGreaterThan(20)
  })

  it("without that is detected, however it is written", () => {
    const silent = [
      `class A extends Schema.TaggedError<A>()("A", { message: Schema.String }) {}\n`,
      `export class A extends Schema.TaggedError<A>()("A", {\n  message: Schema.String\n}) {}\n`,
      `export class A extends Schema.TaggedError<A>()("A", {\n  message: Schema.String\n}) {\n  static of() {\n    return 1\n  }\n}\n`,
      `export class A extends Error {\n  readonly _tag = "A"\n}\n`
    ]
    const after = `class B extends Schema.TaggedError<B>()("B", { message: Schema.String }) {\n  readonly isRetryable = false\n}\n`
    for (const text of silent)
      expect(errorClasses(text + after).map(({ name, declaration }) => [name, saysSo(declaration)])).toEqual([
        ["A", false],
        ["B", true]
      ])
  })
})

describe("a stage with two retries", { timeout: 300_000 }, () => {
  let folder: string
  let result: RunResult
  const stages = { "in a child": failing, "in the run's process": failingHere, "over shards": failingInParts }
  const idOf = (where: string, kind: string) => `${where}: ${kind}`
  const kinds = [...Object.keys(final), ...Object.keys(passing)]
  const attempts = (where: string, kind: string): ReadonlyArray<string> =>
    readFileSync(join(folder, where, kind), "utf8")
      .trim()
      .split("\n")
  const errorOf = (where: string, kind: string) => result.nodes.find(({ id }) => id === idOf(where, kind))!.error

  beforeAll(async () => {
    folder = workFolder()
    for (const where of Object.keys(stages)) mkdirSync(join(folder, where))
    const pipeline = Pipeline.make("failing", { params: Schema.Struct({}) }, () => {
      const input = texts({})
      const nodes: Record<string, AnyNode> = {}
      for (const [where, stage] of Object.entries(stages))
        for (const kind of [...kinds, ...(where === "in a child" ? ["a process that ends"] : [])])
          nodes[idOf(where, kind)] = stage({ texts: input }, { kind, log: join(folder, where) }).named(idOf(where, kind))
      return nodes
    })
    result = await Effect.runPromise(
      run(pipeline, {}, { jobs: 8, limits: { retries: 2 } }).pipe(Effect.provide(services(join(folder, "home"))))
    )
  }, 300_000)
  afterAll(() => removeFolder(folder))

  describe.each(Object.keys(stages))("%s", (where) => {
    it.each(Object.keys(final))("that fails with %s is run once", (kind) => {
      expect(attempts(where, kind)).toHaveLength(1)
      expect(errorOf(where, kind)).not.toMatch(/object Object/)
    })
    it.each(Object.keys(passing))("that fails with %s is run three times", (kind) => {
      expect(attempts(where, kind)).toHaveLength(3)
      expect(errorOf(where, kind)).not.toMatch(/object Object/)
    })
    it("runs in the requested process", () => {
      const isHere = attempts(where, "an object").includes(String(process.pid))
      expect(isHere).toBe(where === "in the run's process")
    })
  })

  it("that exits its process is run three times, and affects nothing else", () => {
    expect(attempts("in a child", "a process that ends")).toHaveLength(3)
    expect(errorOf("in a child", "a process that ends")).toMatch(/exited with code 9/)
  })

  it("describes its failure: for an error without a message its contents, for a promise what to write instead", () => {
    expect(errorOf("in a child", "an object")).toBe("{ code: 3 }")
    expect(errorOf("over shards", "an object")).toBe('Shard 1 of 1 (rows 1 to 1 of "texts"): { code: 3 }')
    expect(errorOf("in the run's process", "no Effect")).toMatch(
      /^Stage failing-here: its run returned a promise, expected an Effect\. Write it/
    )
    expect(errorOf("in a child", "a mistake")).toMatch(/^as it was told to \(at .*failing\.ts:\d+\)$/)
  })
})
