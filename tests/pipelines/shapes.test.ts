/** The pipelines of docs/shapes.md, of at most 13 lines each, train from every shape: the page's own text, run to the end on a file in the published format, at the smallest sizes. */
import { mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as ManagedRuntime from "effect/ManagedRuntime"
import { afterAll, beforeAll, expect, it } from "vitest"
import * as Caravan from "../../caravan.ts"
import { lookAtPath } from "../../data/shapes/shaped.ts"
import { type Kind, kindsOf, shapeOf } from "../../data/shapes/shapes.ts"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import type { Pipeline } from "../../runtime/define/pipeline.ts"
import { removeFolder, workFolder } from "../cli/caravan.ts"
import { pipelines } from "../data/shapes/shapes-page.ts"

const root = fileURLToPath(new URL("../../", import.meta.url))
const files = new URL("../data/shapes/files/", import.meta.url).pathname
const folder = workFolder()
/** One for all runs, which share the processes in which stages run. */
const runtime = ManagedRuntime.make(Caravan.layer({ home: join(folder, "home") }))
afterAll(async () => {
  await runtime.dispose()
  removeFolder(folder)
})

const pipelineFor: Readonly<Record<Kind, string>> = {
  preferences: "on-pairs",
  demonstrations: "on-dialogues",
  prompts: "on-prompts",
  texts: "on-texts"
}
const sizes: Readonly<Record<Kind, Readonly<Record<string, number>>>> = {
  preferences: { "trained.batchPairs": 1 },
  demonstrations: { "trained.steps": 1, "trained.batchSize": 1, "trained.sequenceLength": 400 },
  prompts: {
    "trained.iterations": 1,
    "trained.batchSize": 2,
    "trained.groupSize": 2,
    "trained.miniBatchSize": 2,
    "trained.maxNewTokens": 4
  },
  texts: {
    "tokenizer.vocabSize": 280,
    "trained.dim": 16,
    "trained.layers": 1,
    "trained.heads": 2,
    "trained.kvHeads": 2,
    "trained.contextLength": 64,
    "trained.sequenceLength": 8,
    "trained.steps": 1,
    "trained.batchSize": 1
  }
}

beforeAll(async () => {
  for (const [name, text] of pipelines)
    writeFileSync(
      join(folder, `${name}.ts`),
      text.replace('"caravan"', JSON.stringify(join(root, "index.ts"))).replace('"reward.ts"', JSON.stringify(join(folder, "reward.ts")))
    )
  writeFileSync(
    join(folder, "reward.ts"),
    "export default (_: unknown, answer: string): number => [...answer].reduce((sum, each) => sum + each.charCodeAt(0), 0) % 17 / 4\n"
  )
  const tokenizer = trainTokenizer(["Rivers carry salts to the sea, and why is the sea salt? Most lakes have an outlet."], {
    vocabSize: 300
  })
  const model = initLlama(llamaConfig({ vocabSize: 300, dim: 16, layers: 1, heads: 2, kvHeads: 2, ffn: 24, maxPositions: 400 }), {
    seed: 1
  })
  mkdirSync(join(folder, "model"))
  await writeCheckpoint(join(folder, "model"), { model, tokenizer, role: "policy" })
})

it("are four, of at most 13 lines", () => {
  expect([...pipelines.keys()].sort()).toEqual(Object.values(pipelineFor).sort())
  for (const text of pipelines.values()) expect(text.trimEnd().split("\n").length).toBeLessThanOrEqual(13)
})

const cases: Array<readonly [string, Kind]> = []
for (const name of readdirSync(files).filter((each) => each !== "question-answer.jsonl"))
  for (const kind of kindsOf(shapeOf(await lookAtPath(join(files, name), { documents: "line", map: {} }))!)) cases.push([name, kind])

it.each(cases)("from %s, as %s", { timeout: 60_000 }, async (name, kind) => {
  const { default: pipeline } = (await import(join(folder, `${pipelineFor[kind]}.ts`))) as { readonly default: Pipeline<any, any> }
  const params = { data: join(files, name), ...(kind === "texts" ? {} : { model: join(folder, "model") }) }
  const settings = Object.fromEntries(Object.entries(sizes[kind]).map(([field, value]) => [field, `${value}`]))
  const { nodes, status } = await runtime.runPromise(Caravan.run(pipeline, params, { settings, limits: { skipped: 1 } }))
  const failed = nodes.flatMap(({ error, id }) => (error === null ? [] : [`${id}: ${error}`]))
  expect([status, failed]).toEqual(["succeeded", []])
  const metricsOf = (node: string) => nodes.find(({ id }) => id === node)!.metrics
  expect(metricsOf("rows")["rows"]).toBeGreaterThan(0)
  // At least one step, of which something is known.
  expect(kind === "prompts" ? metricsOf("trained")["iterations"] : metricsOf("trained")["firstLoss"]).toBeGreaterThan(0)
})
