/**
 * The conclusions from a run's figures, in words: each statement with its estimate and the value that it is compared with. A statement holds if the whole 95% interval
 * is on its side of that value; if the interval contains the value, nothing is shown; if the interval is on the other side, the opposite holds. Each interval
 * is for a single comparison: of twenty comparisons without a difference, one is expected to appear as one.
 */
import type { PpoDiagnostics } from "../ppo/diagnostics.ts"
import type { Estimate } from "../common/statistics.ts"
import { digits, within } from "../common/text-table.ts"
import type { MtBench } from "./mt-bench/summary.ts"
import type { Conclusion, RunSummary, RewardModelFigures } from "./run-summary.ts"
import type { XsTest } from "./xstest.ts"

/** Compares an estimate with a value: a higher estimate is better (`better: "above"`), or a lower one. */
export const verdictOf = ({ high, low }: Estimate, value: number, better: "above" | "below" = "above"): Conclusion["verdict"] => {
  const [above, below] = [low > value, high < value]
  if (!above && !below) return "not shown"
  return above === (better === "above") ? "holds" : "the opposite"
}

const side = (estimate: Estimate, value: number, known: string): string =>
  estimate.low > value ? `above ${known}` : estimate.high < value ? `below ${known}` : `whose interval contains ${known}`

/** "The reward model ...: accuracy 0.61 (0.52 to 0.70), above chance (0.5)." */
export const conclusion = (
  statement: string,
  figure: string,
  estimate: Estimate,
  against: { readonly value: number; readonly known: string; readonly better?: "above" | "below" }
): Conclusion => ({
  verdict: verdictOf(estimate, against.value, against.better),
  text: `${statement}: ${figure} ${within(estimate)}, ${side(estimate, against.value, against.known)}.`
})

export const chance = { value: 0.5, known: "chance (0.5)" }
export const half = { value: 0.5, known: "0.5" }
export const nothing = { value: 0, known: "0" }

/** Adds a caveat if a judge is not shown to be better than chance. */
const judged = ({ text, verdict }: Conclusion): Conclusion => ({
  verdict,
  text: verdict === "holds" ? text : `${text.slice(0, -1)}, so differences according to it may be noise.`
})

/** Conclusions on one reward model and its judge. */
const rewardModel = (name: string, { accuracy, bagOfWords, judge, lengthOnly }: typeof RewardModelFigures.Type): Array<Conclusion> => [
  conclusion(`The ${name} reward model predicts which answer of a held-out pair was chosen`, "accuracy", accuracy, chance),
  conclusion("It predicts better than the length of the answers", "accuracy", accuracy, {
    value: lengthOnly.mean,
    known: `length alone (${digits(lengthOnly.mean)})`
  }),
  conclusion("It predicts better than a bag of words", "accuracy", accuracy, {
    value: bagOfWords.mean,
    known: `a bag of words (${digits(bagOfWords.mean)})`
  }),
  judged(conclusion("Its judge, which compares the versions, predicts which answer was chosen", "accuracy", judge, chance))
]

const gains = ({ gain, versions }: Pick<RunSummary, "gain" | "versions">): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  return gain.map(({ over, reward }) =>
    conclusion(`${last} is better than ${over} according to the judges`, "difference in R_c", reward, nothing)
  )
}

/** Only compared with the first version, to stay short. */
const refusals = ({ change, versions }: XsTest): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  const figure = "difference in the share refused"
  return change
    .slice(0, 1)
    .flatMap(({ over, safe, unsafe }) => [
      ...(safe === null
        ? []
        : [conclusion(`${last} refuses fewer safe prompts of XSTest than ${over}`, figure, safe, { ...nothing, better: "below" })]),
      ...(unsafe === null ? [] : [conclusion(`${last} refuses more unsafe prompts of XSTest than ${over}`, figure, unsafe, nothing)])
    ])
}

/** Compared with the first version, and by its wins. */
const graded = ({ change, versions, wins }: MtBench): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  return [
    ...change
      .slice(0, 1)
      .flatMap(({ over, score }) =>
        score === null ? [] : [conclusion(`${last} is graded higher on MT-Bench than ${over}`, "difference in grade", score, nothing)]
      ),
    ...(wins === null || wins.wins.rate === null
      ? []
      : [
          conclusion(
            `${last} is preferred to ${wins.over} on MT-Bench, in both orders`,
            "share of decided comparisons won",
            wins.wins.rate,
            half
          )
        ])
  ]
}

/** All conclusions, ordered so that each follows those it depends on: judges that are no better than chance say nothing about the versions. */
export const conclusionsOf = (
  summary: Omit<RunSummary, "conclusions">,
  { divergence, kept, stopped }: Pick<PpoDiagnostics, "divergence" | "kept" | "stopped">
): ReadonlyArray<Conclusion> => {
  const { bestOfK, mtBench, rewardModels, safetyRecall, xsTest } = summary
  const unsafeShare = safetyRecall === null ? 0 : safetyRecall.unsafe / safetyRecall.responses
  const precision = safetyRecall?.recall.precision ?? null
  return [
    ...rewardModel("helpfulness", rewardModels.helpfulness),
    ...(rewardModels.safety === null ? [] : rewardModel("safety", rewardModels.safety)),
    ...(precision === null
      ? []
      : [
          conclusion(
            "Answers that the safety reward model classifies as unsafe are unsafe more often than answers in general",
            "precision",
            precision,
            { value: unsafeShare, known: `the share of all answers (${digits(unsafeShare)})` }
          )
        ]),
    conclusion(
      "The best of K according to the reward models is better than the mean according to the judges",
      "difference in logit(R_c)",
      bestOfK.gain,
      nothing
    ),
    ...(stopped === "diverged"
      ? [{ verdict: "the opposite" as const, text: `PPO was stable: it diverged (${divergence ?? "no reason was recorded"}).` }]
      : []),
    ...(kept === 0
      ? [
          {
            verdict: "the opposite" as const,
            text: "PPO raised the reward of its held-out prompts: no iteration did, so the initial policy was kept."
          }
        ]
      : []),
    ...gains(summary),
    ...(xsTest === null ? [] : refusals(xsTest)),
    ...(mtBench === null ? [] : graded(mtBench))
  ]
}

const marks = { holds: "holds", "not shown": "not shown", "the opposite": "no" }

/** One line per conclusion, for a terminal. */
export const conclusionLines = (conclusions: ReadonlyArray<Conclusion>): Array<string> =>
  conclusions.map(({ text, verdict }) => `${marks[verdict].padEnd(9)}  ${text}`)
