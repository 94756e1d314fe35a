/** Pipelines from untyped code: every mistake is one clear error before anything runs. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { buildGraph, dependencies, type Graph, type StageNode } from "../../../runtime/define/graph.ts"
import { type AnyNode, fileAt, type NodeLimits } from "../../../runtime/define/node.ts"
import type { Placement } from "../../../runtime/define/placement.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { External, written } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, Policy, Reward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { Texts } from "../../../schemas/rows.ts"

const of = (name: string, inputs: Stage.Ports, output: typeof Texts | typeof Policy | typeof HelpfulnessReward | typeof SafetyReward) =>
  Stage.make(name, {
    config: Schema.Struct({
      rate: hyper(0.5, "a rate", { min: 0 }),
      steps: hyperInt(1, "steps"),
      mode: hyper("fast", "how", ["fast", "slow"])
    }),
    inputs,
    output: output as typeof Texts,
    run: (context) => Effect.succeed(written(context.output))
  }) as unknown as (inputs: unknown, config?: unknown) => AnyNode

const read = of("read", { file: External }, Texts)
const pretrain = of("pretrain", { texts: Texts }, Policy)
const helpfulness = of("helpfulness", { init: Policy }, HelpfulnessReward)
const safety = of("safety", { init: Policy }, SafetyReward)
const score = of("score", { policy: Policy, reward: Reward, safety: Stage.optional(SafetyReward) }, Texts)
const join = of("join", { sets: Stage.many(Texts) }, Texts)

const params = Schema.Struct({ samples: hyperInt(4, "how many"), name: hyper("x", "a name") })
const texts = () => read({ file: fileAt("words.txt") })

const build = (
  outputs: (params: { readonly samples: number; readonly name: string }) => unknown,
  settings: Record<string, string> = {}
): Graph => Effect.runSync(buildGraph(Pipeline.make("test", { params }, outputs as never), {}, { settings, seed: 0 }))
const mistake = (outputs: () => unknown, settings: Record<string, string> = {}): string => {
  const exit = Effect.runSyncExit(buildGraph(Pipeline.make("test", { params }, outputs as never), {}, { settings, seed: 0 }))
  if (Exit.isSuccess(exit)) throw new Error("it was built")
  // An error, not a defect.
  expect(Cause.hasFails(exit.cause)).toBe(true)
  return (Cause.squash(exit.cause) as Error).message
}

describe("a node's placement", () => {
  it.each([
    [{ gpus: 0 }, /on\(\{ gpus: 0 \}\): expected an integer from 1/],
    [{ executor: "ray" }, /on\(\{ executor: ray \}\): expected "local" or "slurm"/],
    [{ gpu: 1 }, /on\(\{ gpu: 1 \}\): expected one of executor, profile, gpus, nodes, cpus, workers/]
  ])("that is impossible is rejected: %j", (placement, message) => {
    expect(mistake(() => ({ x: texts().on(placement as Placement) }))).toMatch(message)
  })
})

describe("a node's limits", () => {
  it.each([
    [{ seconds: -1 }, /limited\(\{ seconds: -1 \}\): expected a number of seconds above 0/],
    [{ memory: Number.NaN }, /limited\(\{ memory: NaN \}\): expected a number of MiB above 0/],
    [{ retries: 1.5 }, /limited\(\{ retries: 1\.5 \}\): expected an integer, 0 or more/],
    [{ skipped: 20 }, /limited\(\{ skipped: 20 \}\): expected a fraction from 0 to 1/],
    [{ timeout: 3 }, /limited\(\{ timeout: 3 \}\): expected one of seconds, memory, retries, skipped/],
    [{ constructor: 3 }, /limited\(\{ constructor: 3 \}\): expected one of seconds, memory, retries, skipped/]
  ])("that are invalid are rejected: %j", (limits, message) => {
    expect(mistake(() => ({ x: texts().limited(limits as NodeLimits) }))).toMatch(message)
  })
})

describe("wires", () => {
  it("of another type are rejected: a reward model as policy, swapped rewards, a file as dataset", () => {
    const policy = () => pretrain({ texts: texts() })
    expect(mistake(() => ({ x: helpfulness({ init: helpfulness({ init: policy() }) }) }))).toMatch(
      /Node "helpfulness-2" \(stage helpfulness\): its input "init" expects a checkpoint:policy, got a checkpoint:helpfulness-reward from "helpfulness"/
    )
    expect(mistake(() => ({ x: score({ policy: policy(), reward: policy() }) }))).toMatch(
      /its input "reward" expects a .*, got a checkpoint:policy/
    )
    expect(
      mistake(() => ({ x: score({ policy: policy(), reward: safety({ init: policy() }), safety: helpfulness({ init: policy() }) }) }))
    ).toMatch(/its input "safety" expects a checkpoint:safety-reward, got a checkpoint:helpfulness-reward/)
    expect(mistake(() => ({ x: pretrain({ texts: fileAt("x") }) }))).toMatch(/expects a dataset:text\/1, got a file/)
  })

  it("that are right are accepted: either reward model, an open optional port, zero or several sets", () => {
    const policy = pretrain({ texts: texts() })
    const graph = build(() => ({
      a: score({ policy, reward: helpfulness({ init: policy }) }),
      b: score({ policy, reward: safety({ init: policy }), safety: undefined }),
      c: join({ sets: [] })
    }))
    expect(graph.nodes.get("score")).toMatchObject({ inputs: { policy: "pretrain", reward: "helpfulness", safety: null } })
    expect(dependencies(graph.nodes.get("join")!)).toEqual([])
  })

  it("are copied when the stage is applied: a loop may keep adding to its list", () => {
    const sets = [texts()]
    const joined: Array<AnyNode> = []
    for (const name of ["first", "second"]) {
      joined.push(join({ sets }).named(name))
      sets.push(joined.at(-1)!)
    }
    const graph = build(() => ({ x: joined.at(-1)! }))
    expect(graph.nodes.get("first")).toMatchObject({ inputs: { sets: ["read"] } })
    expect(graph.nodes.get("second")).toMatchObject({ inputs: { sets: ["read", "first"] } })
  })

  it("that are missing, extra, misspelt, a list instead of one node, or one node instead of a list are rejected", () => {
    expect(mistake(() => ({ x: pretrain({}) }))).toMatch(
      /Node "pretrain" \(stage pretrain\): its input "texts" \(dataset:text\/1\) is missing/
    )
    expect(mistake(() => ({ x: pretrain({ text: texts() }) }))).toMatch(/it has no input "text"\. Did you mean "texts"\?/)
    expect(mistake(() => ({ x: pretrain({ texts: texts(), more: texts() }) }))).toMatch(/it has no input "more"/)
    expect(mistake(() => ({ x: pretrain({ texts: [texts()] }) }))).toMatch(/its input "texts" expects one node, got a list/)
    expect(mistake(() => ({ x: join({ sets: texts() }) }))).toMatch(/its input "sets" expects a list of nodes, got one/)
  })

  it.each([
    ["a path", "words.txt"],
    ["null", null],
    ["a stage that was not applied", read],
    ["a promise", Promise.resolve(1)]
  ])("that are not nodes but %s are rejected", (_, value) => {
    expect(mistake(() => ({ x: pretrain({ texts: value }) }))).toMatch(
      /one of its inputs is .*not a node\. Pass the result of applying a stage/
    )
  })
})

describe("configs and settings", () => {
  it("that are unknown, mistyped or out of bounds are rejected, with the nearest name", () => {
    expect(mistake(() => ({ x: read({ file: fileAt("x") }, { rats: 1 }) }))).toMatch(
      /Node "read" \(stage read\) has no field "rats"\. Did you mean "rate"\?/
    )
    expect(mistake(() => ({ x: read({ file: fileAt("x") }, { rate: "1", steps: 1.5 }) }))).toMatch(/rate[\s\S]*steps/)
    expect(mistake(() => ({ x: read({ file: fileAt("x") }, { rate: -1 }) }))).toMatch(/greater than or equal to 0/)
    expect(mistake(() => ({ x: read({ file: fileAt("x") }, { mode: "quick" }) }))).toMatch(/"fast"[\s\S]*"slow"|mode/)
    expect(mistake(() => ({ x: read({ file: fileAt("x") }, { rate: Number.NaN }) }))).toMatch(/rate/)
  })

  it("from the command line are assigned to the parameter or node they name, with its type", () => {
    const graph = build(({ samples, name }) => ({ x: read({ file: fileAt(name) }, { steps: samples }) }), {
      samples: "7",
      name: "12",
      "read.rate": "1e-3",
      "read.mode": "slow"
    })
    expect(graph.nodes.get("read")).toMatchObject({ config: { rate: 0.001, steps: 7, mode: "slow" } })
    // A string parameter stays a string, whatever it looks like.
    expect(graph.nodes.get("file:12")).toMatchObject({ kind: "file", path: `${process.cwd()}/12` })
  })

  it("for something unknown are rejected, with the nearest name", () => {
    expect(mistake(() => ({ x: texts() }), { sample: "1" })).toMatch(/Pipeline "test" has no parameter "sample"\. Did you mean "samples"\?/)
    // The name of a node's field: how to set it, although "rate" is close to the parameter "name".
    const two = () => ({ x: read({ file: fileAt("x") }).named("one"), y: read({ file: fileAt("y") }) })
    expect(mistake(() => ({ x: read({ file: fileAt("x") }) }), { rate: "0.3" })).toBe(
      'Pipeline "test" has no parameter "rate". Node read has a config field of this name. Set it with --set read.rate=0.3.'
    )
    expect(mistake(two, { rate: "0.3" })).toMatch(/Nodes with a config field of this name: one, read\. Set it with --set one\.rate=0\.3\./)
    expect(mistake(() => ({ x: texts() }), { "reed.rate": "1" })).toMatch(/no node or output is named "reed"\. Did you mean "read"\?/)
  })
})

describe("nodes", () => {
  it("are named explicitly, otherwise by their stage, numbered in a stable order; a duplicate name is rejected", () => {
    const graph = build(() => {
      const [a, b] = [texts(), read({ file: fileAt("other.txt") })]
      return { x: join({ sets: [a, b] }).named("both"), y: pretrain({ texts: b }) }
    })
    expect([...graph.nodes.keys()]).toEqual(["file:words.txt", "read", "file:other.txt", "read-2", "both", "pretrain"])
    expect(graph.outputs).toEqual({ x: "both", y: "pretrain" })
    expect(mistake(() => ({ x: texts().named("a"), y: pretrain({ texts: texts() }).named("a") }))).toMatch(/Two nodes are named "a"/)
    expect(mistake(() => ({ x: texts().named("") }))).toMatch(/the name of a node is empty/)
  })

  it("with the same stage, config, seed and inputs are merged", () => {
    const graph = build(() => ({ x: join({ sets: [texts(), texts(), read({ file: fileAt("words.txt") }, { steps: 2 })] }) }))
    expect(graph.nodes.get("join")).toMatchObject({ inputs: { sets: ["read", "read", "read-3"] } })
  })
  it("with different explicit names are two, each found under its name; they share one result", () => {
    const graph = build(() => ({ x: texts().named("a"), y: texts().named("b"), z: texts() }))
    expect(graph.outputs).toEqual({ x: "a", y: "b", z: "read" })
    expect([...graph.nodes.keys()]).toEqual(["file:words.txt", "a", "b", "read"])
  })
  it("that differ only in their seed are distinct, unless their stage draws no random numbers", () => {
    const draws = (stage: typeof read) =>
      build(() => ({ x: join({ sets: [stage({ file: fileAt("words.txt") }), stage({ file: fileAt("words.txt") }, { seed: 1 })] }) }))
    const still = Stage.make("still", {
      config: Schema.Struct({}),
      inputs: { file: External },
      output: Texts,
      seeded: false,
      run: ({ output }) => Effect.succeed(written(output))
    }) as unknown as typeof read
    expect(draws(read).nodes.get("join")).toMatchObject({ inputs: { sets: ["read", "read-2"] } })
    expect(draws(still).nodes.get("join")).toMatchObject({ inputs: { sets: ["still", "still"] } })
  })
  it("that are merged keep the stricter of their limits, whichever comes first", () => {
    const limitsOf = (...all: ReadonlyArray<NodeLimits>) => {
      const graph = build(() => ({ x: join({ sets: all.map((limits) => texts().limited(limits)) }) }))
      return (graph.nodes.get("read") as StageNode).limits
    }
    const [loose, strict] = [
      { seconds: 60, memory: 100, retries: 2, skipped: 0.5 },
      { seconds: 5, memory: 900, retries: 0, skipped: 0.1 }
    ]
    const both = { seconds: 5, memory: 100, retries: 0, skipped: 0.1 }
    expect([limitsOf(loose, strict), limitsOf(strict, loose)]).toEqual([both, both])
    expect([limitsOf({}, strict, {}), limitsOf({ seconds: 1 }, { retries: 3 })]).toEqual([strict, { seconds: 1, retries: 3 }])
  })
  it("that are merged run where the first one is placed, with the largest requested resources", () => {
    const placementOf = (...all: ReadonlyArray<Placement>) => {
      const graph = build(() => ({ x: join({ sets: all.map((placement) => texts().on(placement)) }) }))
      return (graph.nodes.get("read") as StageNode).placement
    }
    const [one, other] = [
      { executor: "slurm", gpus: 8, nodes: 1 } as const,
      { executor: "local", gpus: 2, nodes: 4, profile: "big" } as const
    ]
    expect(placementOf(one, other)).toEqual({ executor: "slurm", gpus: 8, nodes: 4, profile: "big" })
    expect(placementOf({}, other, {})).toEqual(other)
  })
  it("of a stage and of the same stage pinned, or pinned to another version, are distinct", () => {
    const [v1, v2] = (["v1", "v2"] as const).map((version) => Stage.pinned(version, read as never) as unknown as typeof read)
    const file = fileAt("words.txt")
    const graph = build(() => ({ x: join({ sets: [read({ file }), v1!({ file }), v1!({ file }), v2!({ file })] }) }))
    expect(graph.nodes.get("join")).toMatchObject({ inputs: { sets: ["read", "read-2", "read-2", "read-4"] } })
    expect(() => Stage.pinned(" ", read as never)).toThrow(/^Stage\.pinned\(" ", read\): the version must be a non-empty string/)
  })

  it("may be ten thousand, in a chain", () => {
    let node = texts()
    for (let i = 0; i < 10_000; i++) node = join({ sets: [node] })
    const started = performance.now()
    expect(build(() => ({ x: node })).nodes.size).toBe(10_002)
    // A tenth of a second on its own; seconds if something is quadratic.
    expect(performance.now() - started).toBeLessThan(2500)
  })
})

describe("a pipeline", () => {
  it("without params, or without a function, is rejected where it is made, with a message", () => {
    const make = Pipeline.make as unknown as (...given: ReadonlyArray<unknown>) => unknown
    const noParams =
      /^Pipeline\.make\("test"\): expected params, a Schema\.Struct of its parameters .*`\{ params: Schema\.Struct\(\{\}\) \}`.*, found /
    for (const options of [undefined, {}, { params: {} }, { params: 7 }]) expect(() => make("test", options, texts)).toThrow(noParams)
    expect(() => make("test", texts)).toThrow(noParams)
    // As Effect 3's Schema.Struct: fields, but not of the Effect in use.
    expect(() => make("test", { params: { fields: {} } }, texts)).toThrow(
      'Pipeline.make("test"): expected params, a Schema.Struct, found one of another version of Effect: install the version in Caravan\'s package.json'
    )
    expect(() => make("test", { params })).toThrow(/^Pipeline\.make\("test"\): expected a function of the parameters .*, found none$/)
  })
})

describe("a pipeline's function", () => {
  it("that throws or returns no nodes is a clear error", () => {
    expect(
      mistake(() => {
        throw new TypeError("no such thing")
      })
    ).toMatch(/^Building the pipeline "test": no such thing \(at .*graph\.test\.ts:\d+\)$/)
    expect(mistake(() => ({ x: read }))).toMatch(/Output "x" of pipeline "test" is the stage read itself, not a node/)
    expect(mistake(() => undefined)).toMatch(/its function returned undefined\. Return an object of named outputs/)
    expect(mistake(() => Promise.resolve({ x: texts() }))).toMatch(/its function returned a promise\. Return an object of named outputs/)
    expect(mistake(() => ({}))).toMatch(/its function returned an empty object\. Return an object of named outputs/)
    expect(mistake(() => texts())).toMatch(/its function returned a node\. Return an object of named outputs/)
  })
})
