/** Figure 26: the rewards of one model on the prompts of each annotation batch. */
import { describe, expect, it } from "vitest"
import { ScoredCompletions } from "../../../schemas/rows.ts"
import { batchRewards, BatchRewardsReport } from "../../../stages/evaluation/batch-rewards.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { assistant, scored, user } from "../samples.ts"

const batch = (...prompts: ReadonlyArray<readonly [id: string, ...rewards: ReadonlyArray<number>]>) =>
  rowsArtifact(
    ScoredCompletions,
    prompts.flatMap(([id, ...rewards]) => rewards.map((reward, sample) => scored(id, sample, reward)))
  )

describe("rewards of annotation batches", () => {
  it("are the expected maximum of n and the median of all samples, averaged over prompts, per batch", async () => {
    const first = await batch(["a", 0, 1, 2], ["b", 4, 4, 4])
    // Maximum of two of three, drawn without replacement: (2 + 2 + 1) / 3, and 4.
    const dialogue = [user("c"), assistant("x"), user("y")]
    const second = await rowsArtifact(ScoredCompletions, [
      scored("c", 0, -1, { prompt: dialogue }),
      scored("c", 1, 1, { prompt: dialogue }),
      scored("d", 0, 9)
    ])
    const made = await runStage(batchRewards, { scored: [first, second] }, { n: 2 })
    const { batches, n } = await reportIn(made, BatchRewardsReport)
    expect(n).toBe(2)
    expect(batches.map((one) => [one.batch, one.prompts, one.turns])).toEqual([
      [1, 2, 1],
      [2, 1, 2]
    ])
    expect(batches[0]!.max.mean).toBeCloseTo((5 / 3 + 4) / 2, 12)
    expect(batches[0]!.median.mean).toBeCloseTo(2.5, 12)
    expect([batches[1]!.max.mean, batches[1]!.median.mean]).toEqual([1, 0])
    expect(made.skippedRows).toMatchObject([{ reason: "with fewer than 2 scored samples", id: "d of batch 2" }])
  })
  it("require one model at one temperature, and enough samples in each batch", async () => {
    const one = await batch(["a", 0, 1])
    const warm = await rowsArtifact(ScoredCompletions, [scored("b", 0, 1, { temperature: 1.3 }), scored("b", 1, 1, { temperature: 1.3 })])
    expect(await failureOf(batchRewards, { scored: [one, warm] }, { n: 2 })).toMatch(
      /expected samples from one model at one temperature, found 2: p at temperature 1, p at temperature 1\.3\./
    )
    expect(await failureOf(batchRewards, { scored: [one, await batch(["b", 1])] }, { n: 2 })).toMatch(
      /expected a prompt with at least 2 scored samples in every batch, found none among the 1 prompts of batch 2\. Draw more samples per prompt, or lower n\./
    )
  })
})
