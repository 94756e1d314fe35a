/**
 * Rejection sampling, first of three stages (Llama 2 §3.2.3): samples K completions per prompt from one checkpoint. The result does not depend on a reward
 * model, so a new reward model never causes an old version to be sampled again.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { deriveSeed } from "../../engine/random.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { Dataset } from "../../schemas/artifact.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Completion, Completions, Prompts } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf, type Estimate } from "../common/cost/estimator.ts"
import { promptLength, rowCount, sized } from "../common/cost/size.ts"
import { type Sampling, sampling } from "../common/cost/work.ts"
import { checkPromptIds } from "../common/pairing.ts"
import { promptsWithRoom, sampleAll, samplingFields, samplingPrecision } from "../common/sampling.ts"

export const SampleConfig = Schema.Struct({
  k: hyperInt(10, "number of completions per prompt; §3.2.3 shows 1 to 100 (figure 7) and does not recommend one", { min: 1 }),
  temperature: hyper(1.2, "sampling temperature; 0 is greedy; §3.2.3: 1.2 to 1.3 is best for 10 to 100 samples of the RLHF model", {
    min: 0
  }),
  ...samplingFields,
  precision: samplingPrecision
})

const ports = { policy: Policy, prompts: Prompts }

/** Writes K completions of each prompt, in the prompts' order. `metrics` are added to those of the result. */
export const writeSamples = Effect.fn("writeSamples")(function* (
  context: Omit<Stage.Context<any, typeof ports, Dataset<Completion>>, "config">,
  settings: typeof SampleConfig.Type,
  metrics: Readonly<Record<string, number>> = {}
) {
  const { inputs, output, seed, device, progress, checkpoints, skipped } = context
  const { k, temperature, topP, topK, maxNewTokens, batchSize, batchInvariant, precision } = settings
  const policy = yield* loadPolicy(inputs.policy, { device, dtype: precision })
  const prompts = yield* readRows(inputs.prompts, Prompts)
  const log = yield* openBatchLog({ checkpoints, progress })
  yield* checkPromptIds(prompts, "Sampling answers to prompts")
  const usable = yield* promptsWithRoom(policy, prompts, { maxNewTokens, skipped })
  const work = usable.flatMap(({ prompt, tokens }) => Array.from({ length: k }, (_, sample) => ({ prompt, tokens, sample })))
  const sampled = yield* sampleAll(
    policy,
    work.map(({ prompt, sample, tokens }) => ({ tokens, seed: deriveSeed(seed, "sample", prompt.id, sample), temperature })),
    { topP, topK, maxNewTokens, batchSize, batchInvariant, progress, log }
  )
  const completions = work.map(({ prompt, sample }, i): Completion => ({
    ...{ promptId: prompt.id, prompt: prompt.messages, safety: prompt.safety, sample },
    ...sampled[i]!,
    ...{ temperature, policy: inputs.policy.contentDigest }
  }))
  return yield* writeDataset(output, completions, {
    metrics: {
      completions: completions.length,
      finished: completions.filter((row) => row.finished).length,
      promptsTooLong: prompts.length - usable.length,
      promptsShortened: usable.filter(({ shortened }) => shortened).length,
      ...metrics
    }
  })
})

export const sample = Stage.make("sample", {
  description: "§3.2.3 samples K completions of each prompt from one checkpoint",
  config: SampleConfig,
  inputs: ports,
  output: Completions,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("sample")(({ config, ...context }) => writeSamples(context, config))
})

/** K completions of each prompt, at any temperature. */
export const samplesEstimate: Estimate<Sampling & { readonly k: number }, { policy: typeof Policy; prompts: typeof Prompts }> = {
  size: ({ config, expected, inputs: { prompts } }) =>
    sized(prompts, {
      rows: prompts.rows * config.k,
      prompts: prompts.rows,
      responseTokens: expected.responseTokens ?? config.maxNewTokens
    }),
  cost: ({ config, expected, inputs: { policy, prompts } }) => {
    const response = expected.responseTokens ?? config.maxNewTokens
    return sampling(policy, config, rowCount(prompts, "prompts") * config.k, { prompt: promptLength(prompts, "the samples"), response })
  }
}
export const sampleCost = costOf(sample, samplesEstimate)
