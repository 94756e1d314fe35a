/** Rejection sampling, second of three stages (Llama 2 §3.2.3): scores each completion with a reward model. */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { readJson, roleFile } from "../../schemas/checkpoint-files.ts"
import { Reward } from "../../schemas/checkpoint.ts"
import { Completions, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { scoreOf } from "./combined-reward.ts"
import { completionRows, scoreResponses, scoringFields } from "../common/scoring.ts"
import { scoring } from "./cost.ts"

const ScoreConfig = Schema.Struct(scoringFields)

export const score = Stage.make("score", {
  description:
    "§3.2.3 scores completions with a reward model: the scalar before the sigmoid, and R_h or R_s for a helpfulness or safety model",
  config: ScoreConfig,
  inputs: { completions: Completions, reward: Reward },
  output: ScoredCompletions,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("score")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const { role } = yield* readJson(join(inputs.reward.path, roleFile), "Reading the reward model's role")
    const completions = yield* readRows(inputs.completions, Completions)
    const { batchSize, precision } = config
    const log = yield* openBatchLog({ checkpoints, progress })
    const { scores, empty, unfit } = yield* scoreResponses(inputs.reward, completions, completionRows(skipped, completions), {
      ...{ batchSize, precision, device, progress, log }
    })
    const scored = completions.flatMap((completion, index): Array<ScoredCompletion> => {
      const reward = scores[index]
      if (reward === undefined) return []
      return [
        {
          ...completion,
          reward,
          helpfulnessScore: role === "helpfulness-reward" ? scoreOf(reward) : null,
          safetyScore: role === "safety-reward" ? scoreOf(reward) : null
        }
      ]
    })
    return yield* writeDataset(output, scored, { metrics: { scored: scored.length, empty, unfit } })
  })
})

export const scoreCost = costOf(score, {
  size: ({ inputs }) => inputs.completions,
  cost: ({ config, inputs }) => scoring(inputs.reward, inputs.completions, 1, config)
})
