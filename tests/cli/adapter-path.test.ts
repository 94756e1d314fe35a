/** Arguments of --adapter: a result trained with LoRA, its folder `adapter` under any of its names, and folders outside a store. */
import { cpSync, mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { removeFolder, runJson, workFolder } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

const golden = (path: string) => fileURLToPath(new URL(`../golden/${path}`, import.meta.url))
const [base, adapter] = [golden("llama-gqa/model"), golden("lora-all-linear/adapter")]
const folder = workFolder()
afterAll(() => removeFolder(folder))

// A stage whose result looks like that of a stage that trains with LoRA.
const pipeline = `
import { cpSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Pipeline } from "../../../index.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { written } from "../../../schemas/artifact.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
export const tune = Stage.make("tune", {
  config: Schema.Struct({}),
  inputs: {},
  output: Policy,
  run: ({ output }) =>
    Effect.sync(() => {
      cpSync(${JSON.stringify(base)}, output.path, { recursive: true })
      cpSync(${JSON.stringify(adapter)}, join(output.path, "adapter"), { recursive: true })
      writeFileSync(join(output.path, "caravan.json"), JSON.stringify({ format: 1, role: "policy" }))
      return written(output, {})
    })
})
export default Pipeline.make("tuning", { params: Schema.Struct({}) }, () => ({ tuned: tune({}) }))
`

let path: string
beforeAll(() => {
  writeFileSync(join(folder, "pipeline.ts"), pipeline)
  writeFileSync(join(folder, "ids.json"), "[[1, 5, 7, 9]]")
  path = runJson(folder, "pipeline.ts").outputs.tuned!.path
})
const logprobs = (...args: ReadonlyArray<string>) => inProcess(folder, "logprobs", ...args, "--ids", join(folder, "ids.json"), "--json")

describe("--adapter", () => {
  it("accepts the result, its folder `adapter` by node, run and path, and a plain folder: always the same adapter", async () => {
    const wanted = await logprobs(base, "--adapter", adapter)
    expect([wanted.status, wanted.stderr]).toEqual([0, ""])
    expect(wanted.stdout).not.toBe((await logprobs(base)).stdout)
    const own = join(folder, "own", "adapter")
    mkdirSync(own, { recursive: true })
    cpSync(adapter, own, { recursive: true })
    for (const text of [
      ...["tuned", "tune", "latest:tuned", "tuning:tuned", path],
      ...[
        "tuned/adapter",
        "tune/adapter",
        "latest:tuned/adapter",
        "tuning:tune/adapter",
        join(path, "adapter"),
        `${join(path, "adapter")}/`
      ],
      ...[own, join(folder, "own")]
    ])
      expect([text, await logprobs(base, "--adapter", text)]).toEqual([text, wanted])
  })

  it("reports a result without an adapter, and a path that is not a result", async () => {
    const says = async (text: string) => (await logprobs(base, "--adapter", text)).stderr
    expect(await says("latest:tuned/adaptor")).toContain(
      'Looking for "latest:tuned/adaptor": the result has no folder "adaptor". Did you mean "adapter"?'
    )
    expect(await says("tuned/../adapter")).toContain("no such file or folder")
    expect(await says("luned/adapter")).toContain("no such file or folder")
  })

  it("resolves a checkpoint to itself, and its folder `adapter` to an adapter", async () => {
    expect((await logprobs("tuned")).status).toBe(0)
    expect((await logprobs("tuned/adapter")).stderr).toContain("found an adapter (adapter_config.json)")
  })
})
