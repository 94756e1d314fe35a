/** `caravan describe` and `caravan rows`: the inputs of a pipeline or stage, and the contents of a dataset. */
import { copyFileSync, truncateSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { removeFolder, runJson } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
let ran: ReturnType<typeof runJson>
beforeAll(() => {
  folder = fixtureFolder()
  ran = runJson(folder, "pipeline.ts")
})
afterAll(() => removeFolder(folder))

const says = async (code: number, ...args: ReadonlyArray<string>): Promise<string> => {
  const { status, stdout, stderr } = await inProcess(folder, ...args)
  expect([args, status, stderr]).toEqual([args, code, code === 0 ? "" : expect.any(String)])
  return code === 0 ? stdout : stderr
}
const json = async (...args: ReadonlyArray<string>): Promise<any> => JSON.parse(await says(0, ...args, "--json"))

describe("caravan describe", () => {
  it("a stage of the recipe: ports with their types, fields with their kinds, bounds, defaults and units", async () => {
    const text = await says(0, "describe", "sft")
    expect(text).toMatch(/^Stage sft: §3\.1 supervised fine-tuning/)
    expect(text).toMatch(/^ {2}init +checkpoint:policy$/m)
    expect(text).toMatch(
      /^ {2}demonstrations +dataset:demonstration\/\d {2}\{id:utf8,messages:list<\{role:utf8,content:utf8\}>,loss:utf8\}$/m
    )
    expect(text).toMatch(/^Output: checkpoint:policy$/m)
    expect(text).toMatch(/^ {2}learningRate +number, from 0, default 0\.00002\n {6}peak learning rate; §3\.1: 2e-5, cosine$/m)
    expect(text).toMatch(/^ {2}precision +float32 \| bfloat16, default "float32"$/m)
    const annotate = await json("describe", "annotate")
    expect(annotate.inputs).toMatchObject({ pairs: { arity: "one" }, labels: { arity: "optional", type: "file" } })
    expect(annotate.fields.find(({ name }: { name: string }) => name === "keyVariable")).toMatchObject({ namesSecret: true, default: "" })
    expect(annotate.fields.find(({ name }: { name: string }) => name === "timeout")).toMatchObject({ type: "number", min: 1, default: 60 })
    expect(await says(2, "describe", "stf")).toMatch(
      /expected a pipeline file, the name of a stage of the recipe, or file\.ts#export\. Did you mean "sft"\?/
    )
  })
  it("a stage of a user's file, by its export", async () => {
    const document = await json("describe", `${join(folder, "stages.ts")}#count`)
    expect(document).toMatchObject({
      stage: "count",
      seeded: false,
      inputs: { sets: { arity: "many", columns: "{text:utf8}" }, extra: { arity: "optional" } }
    })
    expect(await says(2, "describe", join(folder, "stages.ts"))).toMatch(
      /no default export that is a pipeline or a stage\. It exports: .*stages\.ts#lines, .*stages\.ts#shout/
    )
    expect(await says(2, "describe", `${join(folder, "stages.ts")}#constructor`)).toMatch(
      /its export "constructor" is neither a pipeline nor a stage/
    )
    expect(await says(2, "describe", join(folder, "nowhere.ts"))).toMatch(/nowhere\.ts does not exist/)
  })
  it("a pipeline: parameters, outputs, stages; awaited inputs of its outputs", async () => {
    const text = await says(0, "describe", join(folder, "pipeline.ts"))
    expect(text).toMatch(
      /^Pipeline fixture\nParameters, set with --set name=value:\n {2}file +text, default "words\.txt"\n {6}lines of text\n/
    )
    expect(text).toMatch(/^ {2}loud +dataset:text\/1 +node shout$/m)
    expect(text).toMatch(/^Stages: lines, shout, wait, count$/m)
    const rlhf = await json("describe", new URL("../../pipelines/rlhf.ts", import.meta.url).pathname)
    expect(rlhf).toMatchObject({ pipeline: "rlhf", outputs: null, open: expect.stringContaining('needs a value for "preferences"') })
    expect(rlhf.parameters[0]).toMatchObject({ name: "preferences", required: true })
  })
})

describe("caravan rows", () => {
  it("of a dataset by each of its names, as text or JSON", async () => {
    const all = "row 1\n  text: ALPHA!\n\nrow 2\n  text: BETA!\n\nrow 3\n  text: GAMMA!\n\n"
    const path = ran.outputs.loud!.path
    for (const name of ["loud", "latest:shout", ran.outputs.loud!.digest.slice(0, 10), path, join(path, "data.arrow")])
      expect([name, await says(0, "rows", name)]).toEqual([name, `${all}3 rows of ${join(path, "data.arrow")}\n`])
    expect(await says(0, "rows", "loud", "--head", "1")).toBe(`row 1\n  text: ALPHA!\n\n1 of 3 rows of ${join(path, "data.arrow")}\n`)
    expect(
      (await says(0, "rows", "loud", "--json", "--head", "2"))
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as unknown)
    ).toEqual([{ text: "ALPHA!" }, { text: "BETA!" }])
  })
  it("of something that is not a dataset, or a damaged one: what was expected", async () => {
    expect(await says(2, "rows", "counts")).toMatch(/Reading the rows of counts: expected a dataset, a folder with the file data\.arrow/)
    expect(await says(2, "rows", "luod")).toMatch(/Did you mean "loud"\?/)
    expect(await says(2, "rows", "loud", "--head", "0")).toMatch(/--head must be an integer of at least 1/)
    const copy = join(folder, "cut.arrow")
    copyFileSync(join(ran.outputs.loud!.path, "data.arrow"), copy)
    truncateSync(copy, 100)
    expect(await says(2, "rows", copy)).toMatch(/Reading the dataset .*cut\.arrow: expected a complete Arrow IPC file/)
  })
})
