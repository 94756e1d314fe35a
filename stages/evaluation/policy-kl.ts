/**
 * The distance of a policy from its initial policy: KL(pi || pi_0) in nats per response, estimated on responses sampled from the policy at temperature 1,
 *
 *     mean over prompts of sum over tokens of log pi(token) - log pi_0(token)                                                       (k1)
 *
 * The KL at a given reward distinguishes methods that all raise the reward (Gao et al. 2023, "Scaling laws for reward model overoptimization").
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import { forwardBytes } from "../../models/memory.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { type Completion, Completions } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, rowCount, unknownSize } from "../common/cost/size.ts"
import { frozen, languageModel, reading } from "../common/cost/work.ts"
import { fitPrompt } from "../common/dialogues.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { meanByPrompt } from "../common/pairing.ts"
import { completionRows, scoringFields } from "../common/scoring.ts"
import { chunks } from "../common/sequences.ts"
import { bootstrapMean } from "../common/statistics.ts"
import { anyShare, whyUnfit } from "../common/unfit.ts"
import { logProbabilitiesOf } from "../ppo/models.ts"

const PolicyKl = Schema.Struct({
  completions: Schema.Number,
  prompts: Schema.Number,
  /** Nats per response, with the bootstrap interval over prompts. */
  kl: EstimateSchema
})
export const PolicyKlReport = report(PolicyKl, "policy-kl/1")

/** Completions at a temperature other than 1, whose recorded log-probabilities are not those of the policy's own distribution. */
export class PolicyKlError extends ExplainedError<PolicyKlError>()("PolicyKlError") {}

export const policyKl = Stage.make("policy-kl", {
  description: "KL of a policy to its initial policy, in nats per response, on responses sampled from the policy",
  config: Schema.Struct(scoringFields),
  inputs: { completions: Completions, reference: Policy },
  output: PolicyKlReport,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("policy-kl")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const other = completions.find(({ temperature }) => temperature !== 1)
    if (other !== undefined)
      return yield* PolicyKlError.of({
        doing: "Estimating the KL of a policy",
        expected: "completions at temperature 1, whose log-probabilities are the policy's own",
        found: `completions at temperature ${other.temperature}`,
        hint: "Sample at temperature 1, without top-k and top-p."
      })
    const { model, tokenizer } = yield* loadPolicy(inputs.reference, { device, dtype: config.precision })
    const context = model.config.maxPositions
    const { idOf, what } = completionRows(skipped, completions)
    // Sampling left room for maxNewTokens, the length of every unfinished response: a prompt loses the same exchanges here as there.
    const room = context - completions.reduce((most, { tokens }) => Math.max(most, tokens.length), 0)
    const responses = completions.flatMap((completion, i) => {
      const prompt = fitPrompt(tokenizer, completion.prompt, room)
      if (prompt !== undefined) return [{ completion, prompt, response: completion.tokens }]
      skipped.add({ what, ...whyUnfit(tokenizer, completion.prompt, room), id: idOf(i), row: completion })
      return []
    })
    yield* skipped.check(what, completions.length, anyShare)
    if (responses.length === 0)
      return yield* EmptyDatasetError.of(
        "estimate the KL on",
        `${completions.length} completions, none of which fits the reference`,
        completions.length === 0 ? undefined : "Use a reference with a longer context, or shorter prompts and answers."
      )
    const log = yield* openBatchLog({ checkpoints, progress })
    let done = 0
    const batches = chunks(responses, config.batchSize).map((batch) => {
      const first = done
      const step = (done += batch.length)
      return {
        name: `KL of ${batch.length} completions, the first number ${first}`,
        compute: Effect.sync(() =>
          logProbabilitiesOf(model, batch, {
            padId: tokenizer.padId,
            config: { temperature: 1, inferenceBatchSize: config.batchSize }
          }).map((row) => sum(row))
        ),
        progressOf: () => ({
          step,
          total: responses.length,
          tokens: batch.reduce((all, { prompt, response }) => all + prompt.length + response.length, 0)
        })
      }
    })
    const sums = (yield* log.all(batches)).flat()
    const rows = responses.map(({ completion }, i) => ({ promptId: completion.promptId, kl: klOf(completion, sums[i]!) }))
    const byPrompt = [...meanByPrompt(rows, ({ kl }) => kl).values()]
    return yield* writeReport(output, { completions: rows.length, prompts: byPrompt.length, kl: bootstrapMean(byPrompt, seed) })
  })
})

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, x) => total + x, 0)
const klOf = ({ logProbabilities }: Completion, reference: number): number => sum(logProbabilities) - reference

export const policyKlCost = costOf(policyKl, {
  size: () => unknownSize,
  cost: ({ config, inputs }) => {
    const model = languageModel(inputs.reference, "the reference")
    const { batchSize, precision } = config
    return {
      work: [
        reading(
          "reference",
          model,
          precision,
          rowCount(inputs.completions, "completions"),
          dialogueLength(inputs.completions, "the completions")
        )
      ],
      memory: frozen(model, precision, forwardBytes(model, precision, batchSize * model.config.maxPositions))
    }
  }
})
