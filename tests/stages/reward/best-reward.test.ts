/** The best reward model so far, by accuracy on all held-out batches. */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { beforeAll, describe, expect, it } from "vitest"
import { writeReport } from "../../../data/dataset.ts"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import type { PairScore } from "../../../schemas/rows.ts"
import { bestHelpfulnessReward, bestSafetyReward, mostAccurate } from "../../../stages/reward/best-reward.ts"
import { rewardAccuracy, RewardAccuracyReport } from "../../../stages/reward/evaluate-reward.ts"
import { smallConfig, smallTokenizer } from "../../models/small.ts"
import { artifact, failureOf, runStage } from "../running.ts"

/** A report on `pairs` pairs, with the given number right. */
const accuracy = (right: number, pairs: number) => {
  const scores = Array.from({ length: pairs }, (_, i): PairScore => ({
    id: `${i}`,
    rating: 0,
    source: "test",
    chosenReward: i < right ? 1 : -1,
    rejectedReward: 0,
    chosenCharacters: 1,
    rejectedCharacters: 1
  }))
  return artifact(RewardAccuracyReport, (slot) => writeReport(slot, rewardAccuracy(scores, 1)))
}

const tokenizer = smallTokenizer()
const model = (seed: number) => initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize }), { seed }), { seed })
let candidates: ReadonlyArray<ArtifactRef<any>>
beforeAll(async () => {
  candidates = await Promise.all(
    [1, 2, 3].map((seed) => artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: model(seed), tokenizer })))
  )
})

describe("the most accurate of some", () => {
  const of = (...means: ReadonlyArray<number>) => mostAccurate(means.map((mean) => ({ accuracy: { mean, low: 0, high: 1 } })))
  it("has the highest accuracy, and is the latest among equals", () => {
    expect([of(0.6, 0.7, 0.65), of(0.7, 0.7, 0.65), of(0.7, 0.6, 0.7), of(0.5)]).toEqual([1, 1, 2, 0])
  })
})

describe("the best reward model", () => {
  it("is the checkpoint of the most accurate candidate, file by file", async () => {
    const scores = [await accuracy(6, 10), await accuracy(9, 10), await accuracy(8, 10)]
    const best = await runStage(bestHelpfulnessReward, { candidates, scores })
    expect(best.digest).toBe(candidates[1]!.digest)
    expect(best.metrics).toEqual({ candidate: 2, candidates: 3, accuracy: 0.9 })
  })
  it("takes no space: its weights are the same file on disk", async () => {
    const best = await runStage(bestHelpfulnessReward, { candidates: candidates.slice(0, 1), scores: [await accuracy(1, 2)] })
    const inode = (ref: ArtifactRef<any>) => statSync(join(ref.path, "model.safetensors")).ino
    expect(inode(best)).toBe(inode(candidates[0]!))
  })
  it("leaves the store's manifest behind, and keeps the role", async () => {
    const candidate = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: model(4), tokenizer }))
    writeFileSync(join(candidate.path, "artifact.json"), "{}")
    const best = await runStage(bestSafetyReward, { candidates: [candidate], scores: [await accuracy(1, 2)] })
    expect(readdirSync(best.path)).not.toContain("artifact.json")
    expect(readdirSync(best.path).length).toBe(readdirSync(candidate.path).length - 1)
    expect(JSON.parse(readFileSync(join(best.path, "caravan.json"), "utf8"))).toMatchObject({ role: "safety-reward" })
  })
  it("can't be determined from fewer reports than candidates, from none, or from reports on different pairs", async () => {
    const scores = [await accuracy(6, 10), await accuracy(9, 10)]
    expect(await failureOf(bestHelpfulnessReward, { candidates, scores })).toContain("3 candidates and 2 reports")
    expect(await failureOf(bestHelpfulnessReward, { candidates: [], scores: [] })).toContain("no candidates")
    const mixed = [...scores, await accuracy(20, 20)]
    expect(await failureOf(bestHelpfulnessReward, { candidates, scores: mixed })).toContain("reports on 10, 20 pairs")
  })
})
