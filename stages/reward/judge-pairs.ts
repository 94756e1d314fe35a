/**
 * A judge instead of a reward model on held-out pairs (Llama 2 table 7, where GPT-4 is asked to choose between two responses): its choices as scores, 1 for the preferred response and 0
 * for the other, evaluated like a reward model's scores.
 *
 * The order of the responses is drawn for each pair, since judges favour a position. The judge answers only with its choice, and the only guideline is which response is better.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type PairScore, PairScores, type Preference, Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { askJudge, judgeFields } from "../common/judge.ts"
import { anyShare } from "../common/unfit.ts"
import { jsonIn } from "../common/json-answer.ts"

/** A judge gave no readable verdict on any pair. */
export class NoVerdictsError extends ExplainedError<NoVerdictsError>()("NoVerdictsError") {}

const choiceQuestion = ({ chosen, prompt, rejected }: Preference, chosenFirst: boolean, guideline: string): string => {
  const dialogue = prompt.map(({ content, role }) => `${role}: ${content}`).join("\n")
  const [first, second] = chosenFirst ? [chosen, rejected] : [rejected, chosen]
  return `Choose the better of two responses to a dialogue. ${guideline}\nAnswer with one JSON object and nothing else: {"better": 1 or 2}\n\n# Dialogue\n${dialogue}\n\n# Response 1\n${first}\n\n# Response 2\n${second}`
}

/** The response that a judge's answer prefers, 1 or 2; null if there is no choice. */
export const readChoice = (said: string): 1 | 2 | null => {
  const { better } = jsonIn(said)
  return better === 1 || better === 2 ? better : null
}

export const judgePairs = Stage.make("judge-pairs", {
  description: "table 7: the response of each held-out pair that a judge prefers, as scores of 1 and 0",
  config: Schema.Struct({
    ...judgeFields(),
    guideline: hyper("Prefer the response that serves the user's request better.", "guideline in the judge's prompt")
  }),
  inputs: { pairs: Preferences },
  output: PairScores,
  run: Effect.fn("judge-pairs")(function* ({ checkpoints, config, inputs, output, progress, seed, skipped }) {
    const pairs = yield* readRows(inputs.pairs, Preferences)
    const asked = pairs.map((pair) => {
      const chosenFirst = new Random(seed, "judge pairs", pair.id).next() < 0.5
      return { chosenFirst, text: choiceQuestion(pair, chosenFirst, config.guideline) }
    })
    const said = yield* askJudge({ ...config, environment: process.env, progress, checkpoints }, asked, {
      what: { one: "pair", many: "pairs" },
      schema: Schema.NullOr(Schema.Literals([1, 2])),
      read: readChoice,
      isUnreadable: (choice) => choice === null
    })
    const rows = pairs.flatMap((pair, i): Array<PairScore> => {
      const choice = said[i] ?? null
      if (choice === null) {
        skipped.add({ what: "pairs", reason: "on which the judge's answer is no choice", id: pair.id, row: pair })
        return []
      }
      const prefersChosen = (choice === 1) === asked[i]!.chosenFirst
      return [
        {
          ...{
            id: pair.id,
            rating: pair.rating,
            source: pair.source,
            chosenReward: prefersChosen ? 1 : 0,
            rejectedReward: prefersChosen ? 0 : 1
          },
          ...{ chosenCharacters: pair.chosen.length, rejectedCharacters: pair.rejected.length }
        }
      ]
    })
    // The judge has its own limit (maxUnreadable).
    yield* skipped.check("pairs", pairs.length, anyShare)
    if (rows.length === 0)
      return yield* NoVerdictsError.of({
        doing: `Asking the judge ${config.model} to choose between the responses of ${pairs.length} pairs`,
        expected: 'answers like {"better": 1}',
        found: pairs.length === 0 ? "no pairs" : "no such answer",
        hint: pairs.length === 0 ? "Check the output of the previous stage." : "Use a judge that answers in the requested format."
      })
    return yield* writeDataset(output, rows, { metrics: { pairs: rows.length, noVerdict: pairs.length - rows.length } })
  })
})

export const judgePairsCost = costOf(judgePairs, { size: ({ inputs }) => inputs.pairs })
