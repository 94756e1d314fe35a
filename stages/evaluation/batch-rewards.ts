/**
 * The difficulty of the prompts in later annotation batches (Llama 2 A.3.2, figure 26): one model samples answers to the prompts of each batch, one reward model scores them, and the maximum and
 * the median score of a prompt are averaged over the batch. In the paper both fall from batch to batch, since annotators were asked for harder prompts.
 *
 * Not in the paper, so chosen here: N, the number of samples for the expected maximum. Prompts with fewer scored samples are left out.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { streamRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { bootstrapMean, expectedMax, mean, median } from "../common/statistics.ts"
import { anyShare } from "../common/unfit.ts"

const BatchRewards = Schema.Struct({
  /** Number of samples for the expected maximum. */
  n: Schema.Number,
  batches: Schema.Array(
    Schema.Struct({
      /** From 1. */
      batch: Schema.Number,
      prompts: Schema.Number,
      /** Mean turns of the prompts: user messages. */
      turns: Schema.Number,
      /** Means over prompts of the expected maximum of n rewards, and of the median of all; with intervals over prompts. */
      max: EstimateSchema,
      median: EstimateSchema
    })
  )
})
export type BatchRewards = typeof BatchRewards.Type
export const BatchRewardsReport = report(BatchRewards, "batch-rewards/1")

/** Batches that cannot be compared: from several models, or without enough scored samples. */
export class BatchRewardsError extends ExplainedError<BatchRewardsError>()("BatchRewardsError") {}

const fields = ["promptId", "prompt", "policy", "temperature", "reward"] as const
type Scored = Pick<ScoredCompletion, (typeof fields)[number]>

export const batchRewards = Stage.make("batch-rewards", {
  description: "A.3.2, figure 26: one model's maximum and median reward on the prompts of each annotation batch",
  config: Schema.Struct({
    n: hyperInt(4, "number of samples for the expected maximum reward; the paper does not say", { min: 1 })
  }),
  inputs: { scored: Stage.many(ScoredCompletions) },
  output: BatchRewardsReport,
  run: Effect.fn("batch-rewards")(function* ({ config, inputs, output, seed, skipped }) {
    const { n } = config
    const doing = "Comparing the rewards of annotation batches"
    const sets: ReadonlyArray<ReadonlyArray<Scored>> = yield* Effect.forEach(inputs.scored, (set) =>
      Stream.runCollect(streamRows(set, ScoredCompletions, fields))
    )
    const models = new Set(sets.flat().map(({ policy, temperature }) => `${policy} at temperature ${temperature}`))
    if (models.size > 1)
      return yield* BatchRewardsError.of({
        doing,
        expected: "samples from one model at one temperature",
        found: `${models.size}: ${[...models].slice(0, 4).join(", ")}`,
        hint: "Sample every batch's prompts with the same model, so that only the prompts differ."
      })
    const byPrompt = sets.map((rows) => [...Map.groupBy(rows, ({ promptId }) => promptId)])
    const usable = byPrompt.map((prompts) => prompts.filter(([, rows]) => rows.length >= n).map(([, rows]) => rows))
    byPrompt.forEach((prompts, batch) => {
      for (const [id, rows] of prompts)
        if (rows.length < n)
          skipped.add({ what: "prompts", reason: `with fewer than ${n} scored samples`, id: `${id} of batch ${batch + 1}`, row: rows })
    })
    yield* skipped.check("prompts", byPrompt.flat().length, anyShare)
    const empty = usable.findIndex((prompts) => prompts.length === 0)
    if (empty !== -1)
      return yield* BatchRewardsError.of({
        doing,
        expected: `a prompt with at least ${n} scored samples in every batch`,
        found: `none among the ${byPrompt[empty]!.length} prompts of batch ${empty + 1}`,
        hint: "Draw more samples per prompt, or lower n."
      })
    return yield* writeReport(output, {
      n,
      batches: usable.map((prompts, i) => {
        const rewards = prompts.map((rows) => rows.map(({ reward }) => reward))
        return {
          ...{ batch: i + 1, prompts: prompts.length },
          turns: mean(prompts.map(([first]) => first!.prompt.filter(({ role }) => role === "user").length)),
          max: bootstrapMean(
            rewards.map((values) => expectedMax(values, n)),
            seed
          ),
          median: bootstrapMean(rewards.map(median), seed)
        }
      })
    })
  })
})
