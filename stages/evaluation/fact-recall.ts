/**
 * The factual knowledge of a base model (Llama 2 §2.1: factual sources are up-sampled "to increase knowledge and dampen hallucinations"): the share of questions with several
 * possible continuations whose correct one is the most probable; and the loss on other text, which may increase in return.
 *
 *     recalled = [log P(answer | question) > log P(other | question) for every other],   log P summed over the continuation's tokens
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import { forwardBytes } from "../../models/memory.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { dataset } from "../../schemas/dataset.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { Texts } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { rowCount, unknownSize } from "../common/cost/size.ts"
import { frozen, languageModel, reading } from "../common/cost/work.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { scoringFields } from "../common/scoring.ts"
import { chunks } from "../common/sequences.ts"
import { bootstrapMean, mean, proportion } from "../common/statistics.ts"
import { anyShare } from "../common/unfit.ts"
import { logProbabilitiesOf } from "../ppo/models.ts"

/** A question as running text, its correct continuation, and wrong ones. */
export const FactQuestion = Schema.Struct({ question: Schema.String, answer: Schema.String, others: Schema.Array(Schema.String) })
export const FactQuestions = dataset(FactQuestion, "fact-question/1")

const FactRecall = Schema.Struct({
  facts: Schema.Number,
  /** Share of the facts whose correct continuation is the most probable, with a 95% Wilson interval. */
  recalled: EstimateSchema,
  /** The share expected from guessing. */
  chance: Schema.Number,
  /** Nats per token of the other texts, mean over texts with a 95% bootstrap interval; null if none are given. */
  loss: Schema.NullOr(EstimateSchema)
})
export const FactRecallReport = report(FactRecall, "fact-recall/1")

/** BOS and a text's tokens, and those of the text after it. A token that spans both belongs to the latter. */
const tokensOf = (tokenizer: Tokenizer, prompt: string, rest: string) => {
  const [before, both] = [tokenizer.encode(prompt), tokenizer.encode(`${prompt}${rest}`)]
  const differs = before.findIndex((token, i) => token !== both[i])
  const at = differs === -1 ? before.length : differs
  return { prompt: [...(tokenizer.bosId === undefined ? [] : [tokenizer.bosId]), ...both.slice(0, at)], response: [...both.slice(at)] }
}
const sum = (values: ReadonlyArray<number>): number => values.reduce((total, value) => total + value, 0)

export const factRecall = Stage.make("fact-recall", {
  description: "§2.1 the share of facts that a base model recalls, and its loss on other text",
  config: Schema.Struct(scoringFields),
  inputs: {
    policy: Policy,
    questions: FactQuestions,
    /** Texts that the model was not trained on. */
    texts: Stage.optional(Texts)
  },
  output: FactRecallReport,
  resources: { tensors: true },
  run: Effect.fn("fact-recall")(function* ({ checkpoints, config, inputs, output, seed, device, progress, skipped }) {
    const questions = yield* readRows(inputs.questions, FactQuestions)
    const isUsable = ({ answer, others }: typeof FactQuestion.Type) => others.length > 0 && !others.includes(answer)
    for (const [i, row] of questions.entries())
      if (!isUsable(row)) skipped.add({ what: "questions", reason: "without a continuation other than the right one", id: `${i}`, row })
    yield* skipped.check("questions", questions.length)
    const usable = questions.filter(isUsable)
    if (usable.length === 0)
      return yield* EmptyDatasetError.of("recall", `${questions.length} questions with a right and a wrong continuation`)
    const { model, tokenizer } = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const options = { padId: tokenizer.padId ?? tokenizer.eosId, config: { temperature: 1, inferenceBatchSize: config.batchSize } }
    const continuations = usable.flatMap(({ answer, others, question }) =>
      [answer, ...others].map((one) => tokensOf(tokenizer, question, one))
    )
    const log = yield* openBatchLog({ checkpoints, progress })
    /** The log-probabilities of each response, in batches that are kept in the log. */
    const logProbabilities = Effect.fnUntraced(function* (what: string, rows: ReadonlyArray<ReturnType<typeof tokensOf>>) {
      const batches = chunks(rows, config.batchSize).map((batch, i) => ({
        name: `${what} ${i}`,
        compute: Effect.sync(() => logProbabilitiesOf(model, batch, options).map((row) => [...row])),
        progressOf: () => ({ step: Math.min(rows.length, (i + 1) * config.batchSize), total: rows.length, message: what })
      }))
      return (yield* log.all(batches)).flat()
    })
    const scores = (yield* logProbabilities("continuations", continuations)).map(sum)
    let at = 0
    const recalled = usable.filter(({ others }) => {
      const [right, ...wrong] = scores.slice(at, (at += 1 + others.length)) as [number, ...Array<number>]
      return wrong.every((one) => right > one)
    }).length

    const texts = inputs.texts === undefined ? [] : yield* readRows(inputs.texts, Texts)
    const room = model.config.maxPositions
    const read = texts.map(({ text }) => {
      const { prompt, response } = tokensOf(tokenizer, "", text)
      return { prompt: prompt.length === 0 ? [tokenizer.eosId] : prompt, response: [...response, tokenizer.eosId] }
    })
    const fitting = read.filter(({ prompt, response }, i) => {
      const fits = prompt.length + response.length <= room
      if (!fits) skipped.add({ what: "texts", reason: `longer than the context of ${room} tokens`, id: `${i}`, row: texts[i]! })
      return fits
    })
    yield* skipped.check("texts", texts.length, anyShare)
    const losses = (yield* logProbabilities("texts", fitting)).map((values) => -mean(values))
    return yield* writeReport(output, {
      facts: usable.length,
      recalled: proportion(recalled, usable.length),
      chance: mean(usable.map(({ others }) => 1 / (1 + others.length))),
      loss: losses.length === 0 ? null : bootstrapMean(losses, seed)
    })
  })
})

export const factRecallCost = costOf(factRecall, {
  size: () => unknownSize,
  cost: ({ config, inputs }) => {
    const model = languageModel(inputs.policy, "the model")
    const { batchSize, precision } = config
    const length = model.config.maxPositions
    return {
      work: [reading("questions", model, precision, rowCount(inputs.questions, "questions"), length)],
      memory: frozen(model, precision, forwardBytes(model, precision, batchSize * length))
    }
  }
})
