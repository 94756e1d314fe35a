/**
 * Changes that do and do not change a key, over generated keys, nodes and code: any change of code, config, seed, input content or numerics does; no
 * change of comment, type, formatting, path, time, concurrency or order of fields does.
 */
import { copyFileSync, mkdirSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { isDeepStrictEqual } from "node:util"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeReport } from "../../../data/dataset.ts"
import { digestOf } from "../../../runtime/encoding.ts"
import { cacheKey, type KeyParts } from "../../../runtime/key/cache-key.ts"
import { codeIdentity, FileDigests } from "../../../runtime/key/code-identity.ts"
import { Journal } from "../../../runtime/store/journal.ts"
import { type Opened, openHome, services } from "../fixture.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { plan } from "../../../runtime/run/plan.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { External } from "../../../schemas/artifact.ts"
import { report } from "../../../schemas/report.ts"
import { hyper, hyperInt, neutral } from "../../../schemas/hyper.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

/** Checks many generated values; a failure's message has the smallest counterexample. The seed makes it reproducible. */
const holds = async <A>(
  values: Arbitrary.Arbitrary<A>,
  property: (value: A) => boolean | Promise<boolean>,
  runs: number
): Promise<string | undefined> => {
  const result = await Effect.runPromise(
    Arbitrary.checkEffect(values, (value) => Effect.promise(async () => property(value)), { runs, seed: "caravan", size: 12 })
  )
  return Arbitrary.formatCheckFailure(result)
}

const Leaf = Schema.Union([Schema.String, Schema.Finite, Schema.Boolean, Schema.Null, Schema.BigInt, Schema.Undefined])
const Value = Schema.Union([Leaf, Schema.Array(Leaf), Schema.Record(Schema.String, Schema.Union([Leaf, Schema.Array(Leaf)]))])
const Digest = Schema.String
const Parts = Schema.Struct({
  stage: Schema.String,
  code: Digest,
  config: Schema.Record(Schema.String, Value),
  seed: Schema.NullOr(Schema.Int),
  inputs: Schema.Record(Schema.String, Schema.Union([Digest, Schema.Array(Digest), Schema.Null])),
  numerics: Schema.NullOr(Schema.Record(Schema.String, Schema.String))
})

/** Reverses every order of fields, at every depth. */
const reversed = (value: unknown): unknown => {
  if (typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) return value.map(reversed)
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([name, field]) => [name, reversed(field)])
  )
}

/** Every value that differs from this one in one place: a part replaced, removed or added. */
const neighbours = (value: unknown): Array<unknown> => {
  const out: Array<unknown> = [
    undefined,
    null,
    [value],
    { value },
    typeof value === "number" || typeof value === "bigint" || typeof value === "boolean" ? String(value) : "",
    0,
    true
  ].filter((other) => !isDeepStrictEqual(other, value))
  if (Array.isArray(value)) {
    value.forEach((element, i) => {
      for (const other of neighbours(element)) out.push([...value.slice(0, i), other, ...value.slice(i + 1)])
      out.push([...value.slice(0, i), ...value.slice(i + 1)])
    })
    out.push([...value, null])
    if (value.length > 1 && !isDeepStrictEqual(value[0], value.at(-1))) out.push([value.at(-1), ...value.slice(1, -1), value[0]])
  } else if (typeof value === "object" && value !== null) {
    for (const [name, field] of Object.entries(value)) {
      const { [name]: _, ...rest } = value as Record<string, unknown>
      for (const other of neighbours(field)) out.push({ ...rest, [name]: other })
      out.push(rest)
      if (!(`${name}x` in value)) out.push({ ...rest, [`${name}x`]: field })
    }
  }
  return out
}

describe("a key of any parts", () => {
  it("is the same for a copy with its fields in another order", async () => {
    const failure = await holds(
      Arbitrary.schema(Parts),
      (parts) => cacheKey(reversed(structuredClone(parts)) as KeyParts) === cacheKey(parts),
      300
    )
    expect(failure).toBeUndefined()
  })

  it("differs from those of all values that differ in one place", async () => {
    let compared = 0
    const failure = await holds(
      Arbitrary.schema(Parts),
      (parts) => {
        const keys = neighbours(parts)
          .filter((other): other is KeyParts => typeof other === "object" && other !== null && "stage" in other && "config" in other)
          .map((other) => cacheKey(other))
        compared += keys.length
        return !keys.includes(cacheKey(parts))
      },
      30
    )
    expect(failure).toBeUndefined()
    expect(compared).toBeGreaterThan(2000)
  })

  it("of two values is the same only if the values are", async () => {
    const failure = await holds(
      Arbitrary.all([Arbitrary.schema(Value), Arbitrary.schema(Value)]),
      ([a, b]) => (digestOf(a) === digestOf(b)) === isDeepStrictEqual(a, b),
      500
    )
    expect(failure).toBeUndefined()
    // Small values, pairwise: those that look alike as text.
    const small = [
      0,
      -0,
      1,
      "0",
      "1",
      "",
      true,
      false,
      "true",
      null,
      "null",
      undefined,
      1n,
      [],
      {},
      [[]],
      [{}],
      ["", ""],
      ["1"],
      [1],
      { a: 1 },
      { "": "a1" }
    ]
    for (const a of small) for (const b of small) expect([a, b, digestOf(a) === digestOf(b)]).toEqual([a, b, a === b && Object.is(a, b)])
  })
})

const Out = report(Schema.Struct({ n: Schema.Number }), "key-properties/1")
const Config = {
  rate: hyper(0.5, "a number"),
  steps: hyperInt(3, "a whole number"),
  name: hyper("plain", "a text"),
  fast: hyper(false, "a switch"),
  kind: hyper("one", "a word", ["one", "two", "three"]),
  batch: neutral(hyperInt(8, "at once"), "only the speed depends on it")
}
export const probe = Stage.make("probe", {
  config: Schema.Struct(Config),
  inputs: { file: External },
  output: Out,
  resources: { tensors: true },
  run: ({ output }) => writeReport(output, { n: 1 })
})

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

/** Everything that a node depends on, and its surroundings. */
const Node = Schema.Struct({
  config: Schema.Struct({
    rate: Schema.Finite,
    steps: Schema.Int,
    name: Schema.String,
    fast: Schema.Boolean,
    kind: Schema.Literals(["one", "two", "three"])
  }),
  seed: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  content: Schema.String,
  numerics: Schema.Record(Schema.String, Schema.String)
})
type Node = typeof Node.Type
const Around = Schema.Struct({
  batch: Schema.Int,
  jobs: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })),
  time: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2_000_000_000 })),
  reverse: Schema.Boolean,
  named: Schema.Boolean
})
type Around = typeof Around.Type
const plain: Around = { batch: 8, jobs: 1, time: 1_700_000_000, reverse: false, named: false }

let files = 0
const keyOf = async (node: Node, around: Around): Promise<string> => {
  const written = join(folder, `f${files++}`)
  const file = join(folder, `f${files++}`)
  writeFileSync(written, node.content)
  copyFileSync(written, file)
  utimesSync(file, around.time, around.time)
  const config = { ...node.config, batch: around.batch }
  const made = await Effect.runPromise(
    plan(
      Pipeline.make("probes", { params: Schema.Struct({}) }, () => {
        const applied = probe({ file: fileAt(file) }, (around.reverse ? reversed(config) : config) as typeof config)
        return { out: around.named ? applied.named("other name").limited({ seconds: around.jobs }) : applied }
      }),
      {},
      { seed: node.seed, jobs: around.jobs, checkpointSeconds: around.jobs }
    ).pipe(Effect.provide(services(join(folder, "home"), node.numerics)))
  )
  const found = [...made.nodes.values()].find((each) => each.kind === "run")
  if (found?.kind !== "run") throw new Error("the node has no key")
  return found.key
}

describe("the key of a node", () => {
  it("does not depend on paths and times of files, concurrency, neutral fields, names, or the order of fields", async () => {
    const failure = await holds(
      Arbitrary.all([Arbitrary.schema(Node), Arbitrary.schema(Around)]),
      async ([node, around]) => (await keyOf(node, around)) === (await keyOf(node, plain)),
      25
    )
    expect(failure).toBeUndefined()
  })

  it("depends on every field of its config, its seed, the content of its input and the machine's numerics", async () => {
    const failure = await holds(
      Arbitrary.all([Arbitrary.schema(Node), Arbitrary.schema(Node)]),
      async ([node, other]) => {
        const before = await keyOf(node, plain)
        for (const part of ["seed", "content", "numerics"] as const) {
          const after = await keyOf({ ...node, [part]: other[part] }, plain)
          if ((after === before) !== isDeepStrictEqual(node[part], other[part])) return false
        }
        for (const field of Object.keys(node.config) as Array<keyof Node["config"]>) {
          const after = await keyOf({ ...node, config: { ...node.config, [field]: other.config[field] } }, plain)
          if ((after === before) !== Object.is(node.config[field], other.config[field])) return false
        }
        return true
      },
      10
    )
    expect(failure).toBeUndefined()
  })
})

/** Functions that call each other in a chain, each with a constant; the stage calls the first, and one is unused. */
const Code = Schema.Struct({
  constants: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 }))).check(
    Schema.isMinLength(2),
    Schema.isMaxLength(5)
  ),
  unused: Schema.Int,
  /** Formatting: a comment, spaces, a type, line breaks at each place. */
  dress: Schema.Array(Schema.Literals(["comment", "space", "type", "break"])).check(Schema.isMinLength(1), Schema.isMaxLength(6))
})
type Code = typeof Code.Type
const sourceOf = ({ constants, unused, dress }: Code, dressed: boolean): Record<string, string> => {
  let at = 0
  const garb = (places: Readonly<Record<string, string>>): string => {
    if (!dressed) return ""
    return places[dress[at++ % dress.length]!] ?? ""
  }
  const between = () => garb({ comment: "// 1 + 1\n", space: "   ", type: `export type T${at} = ${at}\n`, break: "\n\n" })
  const within = () => garb({ comment: "/* , */ ", space: "  ", break: "\n" })
  const functions = constants.map((constant, i) => {
    const next = i + 1 < constants.length ? `f${i + 1}(x)` : "x"
    return `${between()}export const f${i} = (x${garb({ type: ": number" })})${garb({ type: ": number" })} => ${within()}${next} * 31 +${within()} ${constant}\n`
  })
  const half = functions.length >> 1
  return {
    "chain.ts": `import { f${half} } from "./deep.ts"\n${functions.slice(0, half).join("")}`,
    "deep.ts": `${functions.slice(half).join("")}${between()}export const unused = () => ${unused}\n`,
    "stage.ts": `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../../../data/dataset.ts"
import * as Stage from "../../../../runtime/define/stage.ts"
import { report } from "../../../../schemas/report.ts"
import { f0 } from "./chain.ts"
${between()}const Out = report(Schema.Struct({ n: Schema.Number }), "chain/1")
${between()}export const chain = Stage.make("chain", {
  config: Schema.Struct({}),${within()}
  inputs: {},
  output: Out,
  run: ({ output }) => ${within()}writeReport(output, { n: f0(1) })
})
`
  }
}

let versions = 0
const codeOf = async (code: Code, dressed: boolean): Promise<string> => {
  const directory = join(folder, `c${versions++}`)
  mkdirSync(directory)
  for (const [name, text] of Object.entries(sourceOf(code, dressed))) writeFileSync(join(directory, name), text)
  const { chain } = (await import(pathToFileURL(join(directory, "stage.ts")).href)) as { readonly chain: Stage.AnyStage }
  const { digest } = await opened.later(Journal.use((journal) => codeIdentity(chain.stage, journal, new FileDigests())))
  rmSync(directory, { recursive: true })
  return digest
}

describe("the code of any stage", () => {
  it("is the same with comments, types, spaces and line breaks anywhere, in another folder, and next to other unused code", async () => {
    const failure = await holds(
      Arbitrary.schema(Code),
      async (code) => {
        const before = await codeOf(code, false)
        return before === (await codeOf(code, true)) && before === (await codeOf({ ...code, unused: code.unused + 1 }, false))
      },
      6
    )
    expect(failure).toBeUndefined()
  })

  it("changes with any constant of any function it uses, through any number of calls and files", async () => {
    const failure = await holds(
      Arbitrary.schema(Code),
      async (code) => {
        const digests = [await codeOf(code, false)]
        for (let i = 0; i < code.constants.length; i++)
          digests.push(
            await codeOf({ ...code, constants: code.constants.map((constant, j) => (i === j ? constant + 1 : constant)) }, false)
          )
        return new Set(digests).size === digests.length
      },
      3
    )
    expect(failure).toBeUndefined()
  })
})
