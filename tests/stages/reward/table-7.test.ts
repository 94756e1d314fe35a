/** The other rows of table 7: another open reward model from a Hugging Face folder, and a judge that chooses between two responses. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { zeros } from "../../../engine/tensor.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { writeCheckpoint } from "../../../models/checkpoint.ts"
import { writeSafetensors } from "../../../models/safetensors.ts"
import { lookAtReward } from "../../../models/score-head.ts"
import { PairScores, type Preference, Preferences } from "../../../schemas/rows.ts"
import { importGeneralReward, importHelpfulnessReward, importSafetyReward } from "../../../stages/data/import.ts"
import { evaluateReward, rewardAccuracy, scorePairs } from "../../../stages/reward/evaluate-reward.ts"
import { judgePairs, readChoice } from "../../../stages/reward/judge-pairs.ts"
import { accuracyBySourceTable } from "../../../stages/report/reward-model-figures.ts"
import { judgeServer } from "../judge-server.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { user } from "../samples.ts"
import { tokenizer } from "../talking.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-table-7-"))
afterAll(() => rmSync(root, { recursive: true }))

const pair = (id: string, chosen: string, rejected: string, source = "a"): Preference => ({
  ...{ id, prompt: [user("ab")], chosen, rejected, rating: 0, chosenSafe: null, rejectedSafe: null, source }
})
const external = (path: string) => ({ path, type: "file", digest: path, contentDigest: path }) as never

describe("another open reward model", async () => {
  const shape = llamaConfig({ vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 160 })
  const model = initRewardModel(initLlama(shape, { seed: 3 }), { seed: 4 })
  // As saved by transformers: without caravan.json.
  const folder = join(root, "one")
  cpSync(mkdtempSync(join(root, "x")), folder, { recursive: true })
  await writeCheckpoint(folder, { model, tokenizer, role: "general-reward" })
  rmSync(join(folder, "caravan.json"))
  const two = join(root, "two")
  cpSync(folder, two, { recursive: true })
  await writeSafetensors(join(two, "model.safetensors"), { ...model.parameters, "score.weight": zeros([2, 16]) })

  it("with one logit is scored on held-out pairs like our own", async () => {
    const reward = await runStage(importGeneralReward, { folder: external(folder) })
    const pairs = await rowsArtifact(Preferences, [pair("p", "ab", "ba"), pair("q", "aab", "b")])
    const scores = await runStage(scorePairs, { reward, pairs })
    expect((await rowsIn(scores, PairScores)).every((one) => one.chosenReward !== one.rejectedReward)).toBe(true)
    await runStage(evaluateReward, { scores: [scores] })
  })
  it("with two logits is refused in every role, and the error suggests what to do", async () => {
    for (const stage of [importGeneralReward, importHelpfulnessReward, importSafetyReward])
      expect(await failureOf(stage, { folder: external(two) })).toBe(
        `Reading the reward model in ${two}: expected a head of one logit, the score of a response, found a head of 2 logits (score.weight is (2, 16)). This model is a classifier and has no single score. Use a reward model with one label; for a model with two labels, save the good label's row minus the other row as a head with one logit.`
      )
  })
  it("is checked before anything is read: config.json may name two labels", async () => {
    const labelled = join(root, "labelled")
    cpSync(folder, labelled, { recursive: true })
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Record<string, unknown>
    const look = (over: Record<string, unknown>) => {
      writeFileSync(join(labelled, "config.json"), JSON.stringify({ ...config, ...over }))
      return Effect.runPromise(Effect.result(lookAtReward(labelled)))
    }
    expect(await look({ num_labels: undefined, id2label: { 0: "bad", 1: "good" } })).toMatchObject({
      failure: {
        message: expect.stringMatching(/expected a head of one logit.*found a head of 2 logits \(config\.json has 2 labels\)/) as unknown
      }
    })
    expect((await look({ num_labels: 3 }))._tag).toBe("Failure")
    for (const fine of [{}, { num_labels: 1 }, { num_labels: undefined, id2label: undefined }])
      expect((await look(fine))._tag).toBe("Success")
  })
})

describe("a judge in a reward model's place", () => {
  it("reads a choice of 1 or 2, and nothing else", () => {
    expect(['{"better": 1}', '```json\n{"better": 2}\n```'].map(readChoice)).toEqual([1, 2])
    expect(['{"better": "1"}', '{"better": 3}', "1", "null", "both"].map(readChoice)).toEqual(new Array(5).fill(null))
  })
  it("scores the preferred response 1, in either order; a pair without a choice is left out", async () => {
    // Prefers the longer one; gives no choice for pair x.
    const server = await judgeServer((question) => {
      const [, one, two] = question.split(/# Response [12]\n/)
      return question.includes("xxxx") ? "Both are fine." : `{"better": ${one!.trim().length > two!.trim().length ? 1 : 2}}`
    })
    try {
      const rows = [
        ...Array.from({ length: 12 }, (_, i) => pair(`p${i}`, "long answer", "short")),
        pair("worse", "no", "longer", "b"),
        pair("x", "xxxx", "y", "b")
      ]
      const pairs = await rowsArtifact(Preferences, rows)
      const config = { url: server.url, model: "judge" }
      const made = await runStage(judgePairs, { pairs }, config)
      const scores = await rowsIn(made, PairScores)
      expect(scores.map(({ chosenReward, rejectedReward }) => [chosenReward, rejectedReward])).toEqual([
        ...Array.from({ length: 12 }, () => [1, 0]),
        [0, 1]
      ])
      // In either order.
      const first = server.questions.filter((one) => /# Response 1\nlong answer/.test(one)).length
      expect(first).toBeGreaterThan(1)
      expect(first).toBeLessThan(12)
      expect(made.skippedRows).toMatchObject([{ reason: "on which the judge's answer is no choice", id: "x" }])
      const accuracy = rewardAccuracy(scores, 1)
      expect(accuracy.accuracy.mean).toBeCloseTo(12 / 13, 12)
      const [table] = accuracyBySourceTable([{ name: "judge", accuracy }])
      expect(table!.rows).toEqual([
        { "evaluated as": "judge", a: expect.stringMatching(/^1\.000 .* of 12$/), b: expect.stringMatching(/^0\.000 .* of 1$/) }
      ])
    } finally {
      await server.close()
    }
  })
  it("is refused if it gives no verdict, whatever maxUnreadable allows", async () => {
    const server = await judgeServer(() => "I'd rather not say.")
    try {
      const pairs = await rowsArtifact(Preferences, [pair("p", "a", "b"), pair("q", "a", "b")])
      const config = { url: server.url, model: "judge" }
      expect(await failureOf(judgePairs, { pairs }, config)).toMatch(
        /^The judge judge gave 2 of 2 answers without a readable verdict \(nonsense or a refusal\), more than the share 0\.1 of 2 that maxUnreadable allows\. Use a judge/
      )
      expect(await failureOf(judgePairs, { pairs }, { ...config, maxUnreadable: 1 })).toBe(
        'Asking the judge judge to choose between the responses of 2 pairs: expected answers like {"better": 1}, found no such answer. Use a judge that answers in the requested format.'
      )
    } finally {
      await server.close()
    }
  })
})
