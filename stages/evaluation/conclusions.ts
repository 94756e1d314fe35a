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

/** "The reward model ...: 0.61 (0.52 to 0.70), above chance, 0.5." */
export const conclusion = (
  statement: string,
  figure: string,
  estimate: Estimate,
  against: { readonly value: number; readonly known: string; readonly better?: "above" | "below" }
): Conclusion => ({
  verdict: verdictOf(estimate, against.value, against.better),
  text: `${statement}: ${figure} ${within(estimate)}, ${side(estimate, against.value, against.known)}.`
})

export const chance = { value: 0.5, known: "chance, 0.5" }
export const nothing = { value: 0, known: "0" }

/** Adds a caveat if a judge is not shown to be better than chance. */
const judged = ({ text, verdict }: Conclusion): Conclusion => ({
  verdict,
  text: verdict === "holds" ? text : `${text.slice(0, -1)}: then differences by it may be differences of nothing.`
})

/** Conclusions on one reward model and its judge. */
const rewardModel = (name: string, { accuracy, bagOfWords, judge, lengthOnly }: typeof RewardModelFigures.Type): Array<Conclusion> => [
  conclusion(`The ${name} reward model tells which answer of a held-out pair was chosen`, "right in", accuracy, chance),
  conclusion(`It tells more than the length of the answers does`, "right in", accuracy, {
    ...{ value: lengthOnly.mean, known: `length alone, ${digits(lengthOnly.mean)}` }
  }),
  conclusion(`It tells more than a bag of words does`, "right in", accuracy, {
    ...{ value: bagOfWords.mean, known: `a bag of words, ${digits(bagOfWords.mean)}` }
  }),
  judged(conclusion("Its judge, by which the versions are compared, tells which answer was chosen", "right in", judge, chance))
]

const gains = ({ gain, versions }: Pick<RunSummary, "gain" | "versions">): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  return gain.map(({ over, reward }) => conclusion(`${last} is better than ${over} by the judges`, "R_c higher by", reward, nothing))
}

/** Only compared with the first version, to stay short. */
const refusals = ({ change, versions }: XsTest): Array<Conclusion> => {
  const last = versions.at(-1)!.name
  const figure = "difference in the share that is refused"
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
        score === null ? [] : [conclusion(`${last} is graded higher on MT-Bench than ${over}`, "grade higher by", score, nothing)]
      ),
    ...(wins === null || wins.wins.rate === null
      ? []
      : [
          conclusion(`${last} is preferred to ${wins.over} on MT-Bench, in both orders`, "wins of what is decided", wins.wins.rate, {
            ...{ value: 0.5, known: "as many losses, 0.5" }
          })
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
            "What the safety reward model calls unsafe is unsafe more often than answers are in general",
            "unsafe are",
            precision,
            {
              ...{ value: unsafeShare, known: `the share of all, ${digits(unsafeShare)}` }
            }
          )
        ]),
    conclusion(
      "Choosing the best of K by the reward models is worth something by the judges",
      "logit(R_c) above the mean",
      bestOfK.gain,
      nothing
    ),
    ...(stopped === "diverged"
      ? [{ verdict: "the opposite" as const, text: `PPO was stable: it diverged (${divergence ?? "no reason was kept"}).` }]
      : []),
    ...(kept === 0
      ? [
          {
            verdict: "the opposite" as const,
            text: "PPO raised the reward of its held-out prompts: no iteration did, and the policy that it began with was kept."
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
