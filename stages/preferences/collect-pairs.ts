/**
 * Preference collection, first half (Llama 2 §3.2.1): two responses per prompt, "sampled from two different model variants, and varying the
 * temperature hyper-parameter". The order in which they are shown is drawn for each prompt.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { deriveSeed, Random } from "../../engine/random.ts"
import type { Tensor } from "../../engine/tensor.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import { together } from "../../models/memory.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Prompts, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { promptLength, rowCount, sized } from "../common/cost/size.ts"
import { sampling } from "../common/cost/work.ts"
import { checkPromptIds } from "../common/pairing.ts"
import { promptsWithRoom, sampleAll, samplingFields, samplingPrecision, type Sampled } from "../common/sampling.ts"

const CollectConfig = Schema.Struct({
  temperatureFirst: hyper(1, "sampling temperature of the first checkpoint; §3.2.1 varies it and gives no values", { min: 0 }),
  temperatureSecond: hyper(1.2, "sampling temperature of the second checkpoint", { min: 0 }),
  redraws: hyperInt(3, "number of times that a pair of equal or empty responses is redrawn before it is left out", { min: 0 }),
  ...samplingFields,
  precision: samplingPrecision
})

/** Whether two responses can be compared: both are non-empty and they differ. */
const comparable = (first: Sampled, second: Sampled): boolean => first.text !== "" && second.text !== "" && first.text !== second.text

export const collectPairs = Stage.make("collect-pairs", {
  description: "§3.2.1 two responses to each prompt, from two checkpoints at two temperatures",
  config: CollectConfig,
  inputs: { first: Policy, second: Policy, prompts: Prompts },
  output: ResponsePairs,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("collect-pairs")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped }) {
    const { topP, topK, maxNewTokens, batchSize, batchInvariant, temperatureFirst, temperatureSecond, redraws, precision } = config
    const load = (ref: typeof inputs.first) => loadPolicy(ref, { device, dtype: precision })
    const free = (parameters: Readonly<Record<string, Tensor>>) => Object.values(parameters).forEach((parameter) => parameter.free())
    const first = yield* load(inputs.first)
    const same = inputs.first.digest === inputs.second.digest
    const second = same ? first : yield* load(inputs.second)
    const prompts = yield* readRows(inputs.prompts, Prompts)
    yield* checkPromptIds(prompts, "Collecting pairs of responses")
    const room = { maxNewTokens, skipped }
    const fittingFirst = yield* promptsWithRoom(first, prompts, room)
    const ofSecond = same
      ? fittingFirst
      : yield* promptsWithRoom(
          second,
          fittingFirst.map(({ prompt }) => prompt),
          room
        )
    const fittingSecond = new Map(ofSecond.map((one) => [one.prompt, one]))
    const fitting = fittingFirst.flatMap(({ prompt, ...one }) => {
      const other = fittingSecond.get(prompt)
      return other === undefined ? [] : [{ prompt, first: one, second: other }]
    })
    const log = yield* openBatchLog({ checkpoints, progress })
    const options = { topP, topK, maxNewTokens, batchSize, batchInvariant, progress, log }
    const pairs = new Map<string, ResponsePair>()
    let open = fitting
    for (let attempt = 0; attempt <= redraws && open.length > 0; attempt++) {
      const drawn = (which: "first" | "second", temperature: number) =>
        open.map((one) => ({
          tokens: one[which].tokens,
          temperature,
          seed: deriveSeed(seed, "collect", which, one.prompt.id, attempt)
        }))
      const firsts = yield* sampleAll(first, drawn("first", temperatureFirst), options)
      const seconds = yield* sampleAll(second, drawn("second", temperatureSecond), options)
      open = open.filter(({ prompt }, i) => {
        const [a, b] = [firsts[i]!, seconds[i]!]
        if (!comparable(a, b)) return true
        const one = { text: a.text, policy: inputs.first.contentDigest, temperature: temperatureFirst }
        const other = { text: b.text, policy: inputs.second.contentDigest, temperature: temperatureSecond }
        const [A, B] = new Random(seed, "collect", "order", prompt.id).next() < 0.5 ? [one, other] : [other, one]
        pairs.set(prompt.id, {
          id: prompt.id,
          prompt: prompt.messages,
          safety: prompt.safety,
          category: prompt.category,
          followUps: prompt.followUps,
          responseA: A.text,
          responseB: B.text,
          policyA: A.policy,
          policyB: B.policy,
          temperatureA: A.temperature,
          temperatureB: B.temperature
        })
        return false
      })
    }
    free(first.model.parameters)
    if (!same) free(second.model.parameters)
    const promptsShortened = fitting.filter((one) => one.first.shortened || one.second.shortened).length
    const rows = prompts.flatMap(({ id }) => pairs.get(id) ?? [])
    return yield* writeDataset(output, rows, {
      metrics: { pairs: rows.length, alike: open.length, promptsTooLong: prompts.length - fitting.length, promptsShortened }
    })
  })
})

export const collectPairsCost = costOf(collectPairs, {
  size: ({ config, expected, inputs }) => sized(inputs.prompts, { responseTokens: expected.responseTokens ?? config.maxNewTokens }),
  cost: ({ config, expected, inputs }) => {
    const lengths = { prompt: promptLength(inputs.prompts, "the pairs"), response: expected.responseTokens ?? config.maxNewTokens }
    const each = [inputs.first, inputs.second].map((policy) => sampling(policy, config, rowCount(inputs.prompts, "prompts"), lengths))
    // Both checkpoints are loaded before the first one samples.
    const memory = together(each.map((one) => one.memory))
    return { work: each.flatMap(({ work }) => work), memory }
  }
})
