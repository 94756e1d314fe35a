/** The key of an endpoint, given by the environment variable that contains it, stays within the stage that uses it. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, expect, it, vi } from "vitest"
import type { AnyPipeline } from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import { run } from "../../../runtime/run/run.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { fixtureFolder, services } from "../fixture.ts"

const key = "sk-1234567890"
const text = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { External } from "../../../schemas/artifact.ts"
import { hyper, hyperSecretVariable } from "../../../schemas/hyper.ts"
import { Texts } from "../../../schemas/rows.ts"

const parts = {
  config: Schema.Struct({ key: hyperSecretVariable("a key"), how: hyper("note", "what becomes of it") }),
  inputs: { file: External },
  output: Texts,
  seeded: false,
  run: Effect.fn("use")(function* ({ config, output, progress }) {
    const key = process.env[config.key]
    yield* progress({ step: 1, message: "asking with " + key })
    yield* progress({ note: "asked with " + key })
    if (config.how === "fail") return yield* Effect.fail(new Error("refused: " + key))
    if (config.how === "crash") {
      process.stdout.write("GET /?key=" + key.slice(0, 5))
      yield* Effect.sleep(50)
      process.stdout.write(key.slice(5) + "\\n")
      process.exit(3)
    }
    return yield* writeDataset(output, [{ text: "done" }])
  })
}
export const here = Stage.make("here", parts)
export const inChild = Stage.make("in-child", { ...parts, resources: { tensors: true } })
export default Pipeline.make("keys", { params: Schema.Struct({ key: hyperSecretVariable("a key"), how: hyper("note", "what becomes of it") }) }, (params) => {
  const file = fileAt("words.txt")
  return { child: inChild({ file }, params), ...(params.how === "crash" ? {} : { here: here({ file }, params) }) }
})
`

let folder: string
let pipeline: AnyPipeline
beforeAll(async () => {
  folder = fixtureFolder()
  writeFileSync(join(folder, "keys.ts"), text.replace('"words.txt"', JSON.stringify(join(folder, "words.txt"))))
  vi.stubEnv("JUDGE_KEY", key)
  pipeline = ((await import(pathToFileURL(join(folder, "keys.ts")).href)) as { readonly default: AnyPipeline }).default
})
afterAll(() => {
  vi.unstubAllEnvs()
  removeFolder(folder)
})

const runWith = async (settings: Record<string, string>) => {
  const events: Array<RunEvent> = []
  const exit = await Effect.runPromiseExit(
    run(pipeline, {}, { settings, onEvent: (event) => events.push(event) }).pipe(Effect.provide(services(join(folder, "home"))))
  )
  return { exit, events }
}
/** Everything in the store's folder except the stages' outputs. */
const kept = (): string =>
  readdirSync(join(folder, "home"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1"))
    .join("\n")

it.each(["note", "fail", "crash"])("is in no event, log or record of a stage that ends by: %s", async (how) => {
  const { events } = await runWith({ key: "JUDGE_KEY", how })
  expect(JSON.stringify(events)).toContain("[secret]")
  expect(JSON.stringify(events)).not.toContain("1234567890")
  expect(kept()).toContain("[secret]")
  expect(kept()).not.toContain("1234567890")
})

it("given instead of the variable's name is rejected, and not repeated", async () => {
  const { exit } = await runWith({ key })
  expect(JSON.stringify(exit)).toContain("must be the name of an environment variable")
  expect(JSON.stringify(exit)).not.toContain("1234567890")
  expect(kept()).not.toContain("1234567890")
})
