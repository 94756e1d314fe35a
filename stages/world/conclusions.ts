/** The conclusions of a run on the small world, in words: each statement with its estimate; it holds if the whole 95% interval is on its side. */
import { digits } from "../common/text-table.ts"
import { chance, conclusion, half, nothing } from "../evaluation/conclusions.ts"
import type { Conclusion } from "../evaluation/run-summary.ts"
import type { WorldSummary } from "./summary-report.ts"

const kinds = ["helpfulness", "safety"] as const

/** The last version compared with SFT and the controls according to the oracle, and its win rate over SFT. */
const gains = ({ gain, versions, winRates }: WorldSummary): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  return [
    ...gain.flatMap((one) =>
      kinds.flatMap((kind) =>
        one[kind] === null
          ? []
          : [conclusion(`${last} is above ${one.over} in ${kind}, according to the oracle`, "difference", one[kind], nothing)]
      )
    ),
    ...winRates
      .filter(({ name }) => name === last)
      .flatMap(({ rewardModels }) =>
        rewardModels.reward.rate === null
          ? []
          : [
              conclusion(
                `${last} wins over sft according to the reward models`,
                "share of decided comparisons won",
                rewardModels.reward.rate,
                half
              )
            ]
      )
  ]
}

const rewardModels = (summary: WorldSummary): Array<Conclusion> =>
  kinds.flatMap((kind) => {
    const model = summary.rewardModels[kind]
    if (model === null) return []
    return [
      conclusion(`The ${kind} reward model predicts which answer of a held-out pair was chosen`, "accuracy", model.accuracy, chance),
      conclusion("It predicts better than a bag of words", "accuracy", model.accuracy, {
        value: model.bagOfWords.mean,
        known: `a bag of words (${digits(model.bagOfWords.mean)})`
      })
    ]
  })

/**
 * The last version's reward compared with SFT's, and versions whose reward is below that of the previous one. A summary has standard errors but no answers, so these intervals are those of independent
 * means, wider than those of differences on the same prompts.
 */
const rises = ({ versions }: WorldSummary): Array<Conclusion> => {
  const known = versions.flatMap(({ name, reward }) => (reward === null || name === "base" ? [] : [{ name, ...reward }]))
  const difference = (after: (typeof known)[number], before: (typeof known)[number]) => {
    const [mean, half] = [after.mean - before.mean, 1.96 * Math.hypot(after.standardError, before.standardError)]
    return { mean, low: mean - half, high: mean + half }
  }
  const [first, last] = [known[0], known.at(-1)]
  if (first === undefined || last === undefined || first === last) return []
  return [
    conclusion(`The reward of ${last.name} is above that of ${first.name}`, "difference in R_c", difference(last, first), nothing),
    ...known.slice(1).flatMap((one, i) => {
      const before = known[i]!
      if (one.mean >= before.mean) return []
      return [
        conclusion(`The reward of ${one.name} is not below that of ${before.name}`, "difference in R_c", difference(one, before), nothing)
      ]
    })
  ]
}

/** The annotators' choices: the newest model of the last round compared with the previous one. */
const chosen = ({ roundWins }: WorldSummary): Array<Conclusion> => {
  const kindsOf = Map.groupBy(roundWins ?? [], ({ name }) => name.slice(name.lastIndexOf(", ") + 2))
  return [...kindsOf.values()].flatMap((rounds) => {
    const last = rounds.at(-1)
    if (last === undefined || last.rate === null) return []
    return [
      conclusion(`In the last round's pairs (${last.name}) the newer model is chosen more often`, "share of comparisons", last.rate, half)
    ]
  })
}

/** The last turn with Ghost Attention, compared with the same turn without it. */
const ghost = ({ ghostAttention }: WorldSummary): Array<Conclusion> => {
  const [after, before] = [ghostAttention?.withTurns?.at(-1), ghostAttention?.withoutTurns?.at(-1)]
  if (after === undefined || before === undefined) return []
  return [
    conclusion(
      `With Ghost Attention the first turn's instruction is kept at turn ${after.turn} more often than without it`,
      "share kept",
      after.kept,
      {
        value: before.kept.mean,
        known: `the share without it (${digits(before.kept.mean)})`
      }
    )
  ]
}

const distillation = ({ contextDistillation: found }: WorldSummary): Array<Conclusion> =>
  found === null
    ? []
    : [
        conclusion(
          "The answers that context distillation keeps are safer, according to the oracle",
          "difference in safety",
          found.gain,
          nothing
        )
      ]

/** Ordered so that each conclusion follows those it depends on. */
export const worldConclusions = (summary: WorldSummary): ReadonlyArray<Conclusion> => [
  ...rewardModels(summary),
  ...rises(summary),
  ...chosen(summary),
  ...gains(summary),
  ...ghost(summary),
  ...distillation(summary)
]
