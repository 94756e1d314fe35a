import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { fileAt, type Node } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { run } from "../../../runtime/run/run.ts"
import type { ExternalFile } from "../../../schemas/artifact.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { digests, edit, type Fixture, fixtureFolder, loadFixture, services, statuses } from "../fixture.ts"
import { both } from "../fixtures/two-files.ts"

let template: Fixture
beforeAll(async () => {
  template = await loadFixture(fixtureFolder())
  await template.run()
})
afterAll(() => removeFolder(template.folder))

let fixture: Fixture
beforeEach(async () => {
  fixture = await loadFixture(fixtureFolder())
})
afterEach(() => checkAndRemove(fixture.folder))

/** An earlier run, elsewhere: its store and journal are copied here. */
const ranBefore = async () => {
  cpSync(join(template.folder, "home"), join(fixture.folder, "home"), { recursive: true })
  return fixture.run()
}

const all = (status: string) => ({ lines: status, shout: status, wait: status, counts: status })
const kinds = (planned: Awaited<ReturnType<Fixture["plan"]>>) =>
  Object.fromEntries(Object.entries(planned).map(([id, [kind]]) => [id, kind]))

describe("a run", () => {
  it("makes everything once; a second run finds everything, with the same digests", async () => {
    expect(kinds(await fixture.plan())).toEqual({ lines: "run", shout: "unknown", wait: "unknown", counts: "unknown" })
    const first = await fixture.run()
    expect(first.status).toBe("succeeded")
    expect(statuses(first)).toEqual(all("ran"))
    // ALPHA! BETA! GAMMA! alpha beta gamma: 6 + 5 + 6 + 5 + 4 + 5 characters
    expect(JSON.parse(readFileSync(join(first.outputs.counts!.path, "report.json"), "utf8"))).toEqual({ rows: 6, characters: 31 })
    const second = await fixture.run()
    expect(statuses(second)).toEqual(all("hit"))
    expect(digests(second)).toEqual(digests(first))
    expect(kinds(await fixture.plan())).toEqual(all("hit"))
  })

  it("with one changed config field reruns that node and its dependents, as the plan said before", async () => {
    await ranBefore()
    expect(await fixture.plan({ "shout.times": "3" })).toEqual({
      lines: ["hit"],
      shout: ["run", "config times: 1 -> 3"],
      wait: ["hit"],
      counts: ["unknown"]
    })
    expect(statuses(await fixture.run({ "shout.times": "3" }))).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
    // And back: the old results still exist.
    expect(statuses(await fixture.run())).toEqual(all("hit"))
  })

  it("stops rebuilding if an output is unchanged", async () => {
    await ranBefore()
    writeFileSync(join(fixture.folder, "words.txt"), "alpha  \n\nbeta\ngamma")
    expect((await fixture.plan()).lines).toEqual(["run", "input file: new content of file:words.txt"])
    expect(statuses(await fixture.run())).toEqual({ lines: "ran", shout: "hit", wait: "hit", counts: "hit" })
  })

  it("detects a file change that its size and times hide: one made just before or after it was read", async () => {
    const words = join(fixture.folder, "words.txt")
    for (const text of ["alpha\n", "aleph\n", "alefs\n"]) {
      writeFileSync(words, text)
      // Times in whole seconds, as on some file systems.
      utimesSync(words, 1_700_000_000, 1_700_000_000)
      expect(statuses(await fixture.run({}, { until: "lines" })).lines).toBe("ran")
    }
  })

  it("does not depend on names and times of files, on neutral fields, or on concurrency", async () => {
    await ranBefore()
    copyFileSync(join(fixture.folder, "words.txt"), join(fixture.folder, "other.txt"))
    expect(statuses(await fixture.run({ file: join(fixture.folder, "other.txt"), "lines.batch": "7" }, { jobs: 3 }))).toEqual(all("hit"))
  })

  it("reruns seeded stages with another seed, and only those", async () => {
    await ranBefore()
    expect((await fixture.plan({}, { seed: 1 })).shout).toEqual(["run", "seed 0 -> 1"])
    expect(statuses(await fixture.run({}, { seed: 1 }))).toEqual({ lines: "hit", shout: "ran", wait: "ran", counts: "hit" })
  })

  it("reruns stages with tensors with other numerics, and only those", async () => {
    await ranBefore()
    fixture.numerics.libtorch = "2.11"
    expect((await fixture.plan()).wait).toEqual(["run", "numerics libtorch: none -> 2.11"])
    expect(statuses(await fixture.run())).toEqual({ lines: "hit", shout: "ran", wait: "ran", counts: "hit" })
  })

  it("names the package whose version changed", async () => {
    const lock = (version: string) =>
      writeFileSync(
        join(fixture.folder, "package-lock.json"),
        JSON.stringify({ packages: { "node_modules/effect": { version, integrity: `sha512-${version}` } } })
      )
    lock("4.1.0")
    await fixture.run({}, { until: "lines" })
    lock("4.1.1")
    await expect(fixture.plan()).rejects.toThrow(
      /effect is installed in version 4\.1\.0, but .*package-lock\.json expects 4\.1\.1.*Run npm ci/
    )
    const installed = join(fixture.folder, "node_modules/effect")
    mkdirSync(installed, { recursive: true })
    writeFileSync(join(installed, "package.json"), JSON.stringify({ name: "effect", version: "4.1.1" }))
    expect((await fixture.plan()).lines).toEqual(["run", "code: effect 4.1.0 -> 4.1.1"])
  })

  it("does not need a file that none of the selected nodes uses", async () => {
    edit(fixture.folder, "pipeline.ts", (text) =>
      text.replace("return { loud", 'const more = lines({ file: fileAt("/nowhere/later.txt") }).named("more")\n  return { more, loud')
    )
    const changed = await loadFixture(fixture.folder, "?more")
    expect(statuses(await changed.run({}, { until: "shout" }))).toMatchObject({ lines: "ran", shout: "ran", more: "skipped" })
    for (const selection of [{ until: "more" }, {}])
      await expect(changed.run({}, selection)).rejects.toThrow(/Reading the input \/nowhere\/later\.txt: no such file or folder/)
  })

  it("selects nodes by only, from, until and force", async () => {
    expect(statuses(await fixture.run({}, { until: "shout" }))).toEqual({ lines: "ran", shout: "ran", wait: "skipped", counts: "skipped" })
    expect(statuses(await fixture.run({}, { only: "wait" }))).toMatchObject({ lines: "hit", wait: "ran", counts: "skipped" })
    await expect(fixture.run({ times: "5" }, { only: "counts" })).rejects.toThrow(/Node "shout" is needed but not selected/)
    await fixture.run()
    expect(statuses(await fixture.run({}, { force: ["shout"] }))).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "hit" })
    expect(statuses(await fixture.run({}, { from: "shout", force: ["shout", "counts"] }))).toEqual({
      lines: "hit",
      shout: "ran",
      wait: "hit",
      counts: "ran"
    })
  })

  it("reports events as they happen", async () => {
    const { events, run } = await fixture.run({ steps: "3" }, { until: "wait" })
    expect(events[0]).toMatchObject({ type: "run-started", run, nodes: ["lines", "shout", "wait", "counts"] })
    expect(events.filter((event) => event.type === "progress").map((event) => event.progress)).toEqual(
      [1, 2, 3].map((step) => ({ step, total: 3 }))
    )
    const order = events.flatMap((event) =>
      event.type === "node-started"
        ? [`${event.node} started`]
        : event.type === "node-finished"
          ? [`${event.node.id} ${event.node.status}`]
          : []
    )
    expect(order.indexOf("lines ran")).toBeLessThan(order.indexOf("wait started"))
    expect(events.at(-1)).toMatchObject({ type: "run-finished", status: "succeeded" })
  })
})

describe("a failure", () => {
  it("stops the stage's dependents and nothing else, and has its message", async () => {
    const failed = await fixture.run({ "shout.refuse": "true" })
    expect(failed.status).toBe("failed")
    expect(statuses(failed)).toEqual({ lines: "ran", shout: "failed", wait: "ran", counts: "skipped" })
    expect(failed.nodes.find((node) => node.id === "shout")!.error).toBe("these texts are not for shouting")
    expect(failed.outputs).not.toHaveProperty("counts")
    expect(statuses(await fixture.run())).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
  })

  it("of a child is described: an exit with its last output, a kill, a bug with its location", async () => {
    const error = async (die: string) =>
      (await fixture.run({ "wait.die": die }, { until: "wait" })).nodes.find((node) => node.id === "wait")!
    expect(await error("exit")).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/process of stage wait exited with code 3\. Its last output:\nout of paper/)
    })
    expect(await error("kill")).toMatchObject({ status: "failed", error: expect.stringMatching(/was killed \(out of memory\?\)/) })
    expect(await error("throw")).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/a mistake in the stage \(at .*stages\.ts:\d+\)/)
    })
  })

  it("to write the declared output is rejected, and nothing is recorded", async () => {
    const failed = await fixture.run({ "wait.empty": "true" })
    expect(failed.nodes.find((node) => node.id === "wait")).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/did not write a dataset:text\/1.*data\.arrow/)
    })
    expect((await fixture.plan({ "wait.empty": "true" })).wait![0]).toBe("run")
    expect(readdirSync(join(fixture.folder, "home/tmp"))).toEqual([])
  })

  it("because an input changed while it was read records nothing", async () => {
    const failed = await fixture.run({ "lines.touch": "true" })
    expect(failed.nodes.find((node) => node.id === "lines")).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/words\.txt changed while it was being read/)
    })
    expect((await fixture.plan({ "lines.touch": "true" })).lines![0]).toBe("run")
  })

  it.each(["first", "second"])("because one of two files changed while it was read records nothing: the %s", async (touch) => {
    for (const name of ["first", "second"]) writeFileSync(join(fixture.folder, name), `${name}\n`)
    const [first, second] = ["first", "second"].map((name) => fileAt(join(fixture.folder, name))) as [
      Node<ExternalFile>,
      Node<ExternalFile>
    ]
    const pipeline = Pipeline.make("two", { params: Schema.Struct({}) }, () => ({ out: both({ first, second }, { touch }) }))
    const result = await Effect.runPromise(run(pipeline, {}).pipe(Effect.provide(services(join(fixture.folder, "home")))))
    expect(result.nodes).toMatchObject([{ status: "failed", error: expect.stringContaining(`${touch} changed while it was being read`) }])
  })
})

describe("code that changes while the pipeline runs", () => {
  const editing = async (change: (text: string) => string) => {
    const { nodes } = await fixture.run({}, {}, (event) => {
      if (event.type === "node-finished" && event.node.id === "lines") edit(fixture.folder, "helper.ts", change)
    })
    return Object.fromEntries(nodes.map(({ id, status, error }) => [id, error ?? status]))
  }

  it("fails the changed stages, whose children would run code that differs from their keys, and no others", async () => {
    expect(await editing((text) => text.replace('"!"', '"?"'))).toEqual({
      lines: "ran",
      shout: expect.stringMatching(/^The code of stage shout changed while the pipeline ran \(.*helper\.ts\)\. .*run again/),
      wait: "ran",
      counts: "skipped"
    })
  })

  it("fails a changed stage, even if its process has already loaded the new code for another stage of the same module", async () => {
    const text = (times: number) => `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../data/dataset.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
import { lines } from "./stages.ts"

const times = ${times}
const stage = <const Name extends string>(name: Name, change: (text: string) => string) =>
  Stage.make(name, {
    module: import.meta, config: Schema.Struct({}), inputs: { texts: Texts }, output: Texts, seeded: false,
    run: Effect.fn(name)(function* ({ inputs, output }) {
      return yield* writeDataset(output, (yield* readRows(inputs.texts, Texts)).map(({ text }) => ({ text: change(text) })))
    })
  })
export const one = stage("one", (text) => text + "1")
export const two = stage("two", (text) => text + "2".repeat(times))
export default Pipeline.make("same-module", { params: Schema.Struct({}) }, () => {
  const first = one({ texts: lines({ file: fileAt(import.meta.dirname + "/words.txt") }) })
  return { second: two({ texts: first }) }
})
`
    const path = join(fixture.folder, "same-module.ts")
    writeFileSync(path, text(1))
    const { default: pipeline } = (await import(path)) as { readonly default: Pipeline.Pipeline<any, any> }
    const { nodes } = await Effect.runPromise(
      run(
        pipeline,
        {},
        {
          onEvent: (event) => {
            if (event.type === "node-finished" && event.node.id === "lines") writeFileSync(path, text(2))
          }
        }
      ).pipe(Effect.provide(services(join(fixture.folder, "home"))))
    )
    expect(Object.fromEntries(nodes.map(({ id, status, error }) => [id, error ?? status]))).toEqual({
      lines: "ran",
      one: "ran",
      two: expect.stringMatching(/^The code of stage two changed while the pipeline ran \(.*same-module\.ts\)/)
    })
  })

  it("in comments and unused parts fails nothing", async () => {
    expect(await editing((text) => `// Edited.\n${text.replace("`${text}?`", "`${text}??`")}`)).toEqual(all("ran"))
  })
})
