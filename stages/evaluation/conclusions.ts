/**
 * What the figures of a run come to, in words: each statement beside its estimate and the value that the estimate is held against. A statement holds where the whole 95% interval
 * is on its side of that value; where the interval holds the value, nothing is shown; where the interval is on the other side, the opposite holds. Intervals
 * are of one comparison each: of twenty that are none, one is expected to look like one.
 */
import type { PpoDiagnostics } from "../ppo/diagnostics.ts"
import type { Estimate } from "../common/statistics.ts"
import { digits, within } from "../common/text-table.ts"
import type { MtBench } from "./mt-bench/summary.ts"
import type { Conclusion, RunSummary, RewardModelFigures } from "./run-summary.ts"
import type { XsTest } from "./xstest.ts"

/** Held against a value of which more is better (`better: "above"`), or less. */
export const verdictOf = ({ high, low }: Estimate, value: number, better: "above" | "below" = "above"): Conclusion["verdict"] => {
  const [above, below] = [low > value, high < value]
  if (!above && !below) return "not shown"
  return above === (better === "above") ? "holds" : "the opposite"
}

const side = (estimate: Estimate, value: number, known: string): string =>
  estimate.low > value ? `above ${known}` : estimate.high < value ? `below ${known}` : `whose interval holds ${known}`

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

/** What a judge that tells nothing is worth. */
const judged = ({ text, verdict }: Conclusion): Conclusion => ({
  verdict,
  text: verdict === "holds" ? text : `${text.slice(0, -1)}: then differences by it may be differences of nothing.`
})

/** Of one reward model and its judge. */
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

/** Over the first version alone: over all it would be a page. */
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

/** Over the first version too, and of its wins. */
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

/** All of them, in the order in which they depend on one another: judges that tell nothing say nothing of the versions. */
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

/** A line each, for a terminal. */
export const conclusionLines = (conclusions: ReadonlyArray<Conclusion>): Array<string> =>
  conclusions.map(({ text, verdict }) => `${marks[verdict].padEnd(9)}  ${text}`)
