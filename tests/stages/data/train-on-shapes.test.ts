/** A model trains on the rows of every shape: from a file as it is published to a step, with nothing told of the file. */
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { beforeAll, expect, it } from "vitest"
import { lookAtPath } from "../../../data/shapes/shaped.ts"
import { kindsOf, shapeOf } from "../../../data/shapes/shapes.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Completions, Texts } from "../../../schemas/rows.ts"
import { preferenceTexts } from "../../../stages/data/derive.ts"
import { importDemonstrations, importTexts } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { importPrompts } from "../../../stages/data/import-prompts.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { helpfulnessRewardModel } from "../../../stages/reward/reward-model.ts"
import { pretrain } from "../../../stages/training/pretrain.ts"
import { sft } from "../../../stages/training/sft.ts"
import { tokenizer } from "../../../stages/training/tokenizer.ts"
import { rowsArtifact, rowsIn, runStage } from "../running.ts"

const files = new URL("../../data/shapes/files/", import.meta.url).pathname
const at = (name: string) => ({ file: { path: join(files, name), type: "file", digest: "", contentDigest: "" } })
const shape = { dim: 16, layers: 1, heads: 2, kvHeads: 2, contextLength: 400, steps: 1, batchSize: 1 }

let base: ArtifactRef<any>
let pieces: ArtifactRef<any>
beforeAll(async () => {
  const pairs = await runStage(importPreferences, at("helpsteer3.jsonl"))
  const texts = await runStage(preferenceTexts, { preferences: pairs })
  pieces = await runStage(tokenizer, { texts }, { vocabSize: 320 })
  const long = await rowsArtifact(
    Texts,
    Array.from({ length: 40 }, (_, i) => ({ text: `Some text to begin with, number ${i}, which is long enough to fill a row.` }))
  )
  base = await runStage(pretrain, { tokenizer: pieces, texts: long }, shape)
}, 60_000)

const named = readdirSync(files).filter((name) => !/unpaired|stepwise|question-answer/.test(name))

it.each(named)("%s", async (name) => {
  const found = shapeOf(await lookAtPath(join(files, name), { documents: "line", map: {} }))!
  const small = { steps: 1, batchSize: 2 }
  const metrics: Array<number> = []
  for (const kind of kindsOf(found))
    switch (kind) {
      case "preferences": {
        const pairs = await runStage(importPreferences, at(name))
        metrics.push((await runStage(helpfulnessRewardModel, { init: base, pairs }, { batchPairs: 2 })).metrics["firstLoss"]!)
        break
      }
      case "demonstrations": {
        const demonstrations = await runStage(importDemonstrations, at(name))
        metrics.push((await runStage(sft, { init: base, demonstrations }, { ...small, sequenceLength: 400 })).metrics["firstLoss"]!)
        break
      }
      case "prompts": {
        const prompts = await runStage(importPrompts, at(name))
        const drawn = await runStage(sample, { policy: base, prompts }, { k: 1, maxNewTokens: 2 })
        metrics.push((await rowsIn(drawn, Completions)).length)
        break
      }
      case "texts": {
        const texts = await runStage(importTexts, at(name))
        metrics.push((await runStage(pretrain, { tokenizer: pieces, texts }, { ...shape, sequenceLength: 8 })).metrics["firstLoss"]!)
      }
    }
  expect(metrics.length).toBeGreaterThan(0)
  for (const metric of metrics) expect(metric).toBeGreaterThan(0)
})
