/** The figures of a run on your own data as text, for a terminal. */
import { columns, digits, within } from "../common/text-table.ts"
import type { SafetyRecall } from "../reward/evaluate-reward.ts"
import { conclusionLines } from "./conclusions.ts"
import type { MtBench } from "./mt-bench/summary.ts"
import type { RunSummary, VersionFigures } from "./run-summary.ts"
import type { XsTest } from "./xstest.ts"

/** Versions, then controls, under their displayed names. */
export const allVersions = ({ controls, versions }: Pick<RunSummary, "controls" | "versions">): ReadonlyArray<VersionFigures> => [
  ...versions,
  ...controls.map((one) => ({ ...one, name: `control: ${one.name}` }))
]

const recallText = ({ gate, recall, responses, unsafe }: SafetyRecall): Array<string> => [
  "",
  `Of ${responses} labelled answers ${unsafe} are unsafe. R_s below ${recall.threshold} finds ${within(recall.recall)} of them, with precision ${within(recall.precision)};`,
  `below ${gate.threshold}, where R_s decides alone, ${within(gate.recall)}, with precision ${within(gate.precision)}.`
]

const refused = (share: XsTest["versions"][number]["safe"]): string =>
  share === null ? "–" : `${within(share.rate)}${share.corrected === null ? "" : `, corrected ${within(share.corrected)}`}`

const xsTestText = ({ prompts, versions }: XsTest): Array<string> => [
  "",
  ...columns([
    [`XSTest: refused of`, `${prompts.safe} safe prompts (95%)`, `${prompts.unsafe} unsafe prompts (95%)`, "empty", "unanswered"],
    ...versions.map(({ empty, name, safe, unanswered, unsafe }) => [name, refused(safe), refused(unsafe), `${empty}`, `${unanswered}`])
  ])
]

/** Scores of both turns, and of each. */
export const mtBenchScores = ({ byTurn, score }: MtBench["versions"][number]): ReadonlyArray<string> =>
  [score, ...[1, 2].map((turn) => byTurn.find((one) => one.turn === turn)?.score ?? null)].map(within)

export const mtBenchWinsText = ({
  decided,
  disagreeing,
  equal,
  forFirst,
  over,
  undecided,
  unanswered,
  wins
}: NonNullable<MtBench["wins"]>): string =>
  `against ${over}, asked in both orders: ${wins.wins} wins, ${wins.losses} losses, ${wins.ties} ties; win rate ${within(wins.rate)}. Of the ties ${equal} are equal answers, in ${disagreeing} the orders disagree, and in ${undecided} a verdict can't be read; ${unanswered} turns have an answer missing. Of ${decided} verdicts for one side ${forFirst} were for what was shown first.`

const mtBenchText = ({ versions, wins }: MtBench): Array<string> => [
  "",
  ...columns([
    [`MT-Bench by ${versions[0]!.judge}, 1 to 10`, "both turns (95%)", "first turn", "second turn", "unanswered: 1", "no grade: left out"],
    ...versions.map((one) => [one.name, ...mtBenchScores(one), `${one.unanswered}`, `${one.unreadable}`])
  ]),
  ...(wins === null ? [] : [`${versions.at(-1)!.name} ${mtBenchWinsText(wins)}`])
]

/** Short enough for a terminal. */
export const summaryText = (summary: RunSummary): string => {
  const { bestOfK, conclusions, gain, mtBench, rewardModels, safetyRecall, versions, xsTest } = summary
  const models = (["helpfulness", "safety"] as const).flatMap((name) => {
    const one = rewardModels[name]
    if (one === null) return []
    const { accuracy, bagOfWords, judge, lengthOnly, pairs, shuffledLabels } = one
    return [[name, ...[accuracy, judge, lengthOnly, bagOfWords, shuffledLabels].map(within), `${pairs}`]]
  })
  return [
    "Held-out prompts, answered by every version, by the judges: reward models that took no part in tuning. R_c, R_h and R_s are between 0 and 1, of all",
    "answers but those without a score (empty, or with tags of the chat format in them).",
    "",
    ...columns([
      ["version", "R_c (95%)", "R_h", "R_s", "tokens", "ended", "answers"],
      ...allVersions(summary).map((one) => [
        ...[one.name, within(one.reward), digits(one.helpfulness?.mean ?? null), digits(one.safety?.mean ?? null)],
        ...[one.tokens.toFixed(1), `${one.ended}`, `${one.answers}`]
      ])
    ]),
    "",
    ...columns([
      [`${versions.at(-1)!.name} above`, "R_c (95%)", "win rate (95%)", "ties"],
      ...gain.map(({ over, reward, wins }) => [over, within(reward), within(wins.rate), `${wins.ties} of ${wins.prompts}`])
    ]),
    "",
    ...columns([
      ["held-out pairs", "reward model right (95%)", "its judge", "length alone", "bag of words", "labels shuffled", "pairs"],
      ...models
    ]),
    ...(safetyRecall === null ? [] : recallText(safetyRecall)),
    "",
    ...columns([["best of", "logit(R_c) by the judges (95%)"], ...bestOfK.byN.map(({ n, reward }) => [`${n}`, within(reward)])]),
    `The best of all is ${within(bestOfK.gain)} above the mean, ${within(bestOfK.mean)}.`,
    ...(xsTest === null ? [] : xsTestText(xsTest)),
    ...(mtBench === null ? [] : mtBenchText(mtBench)),
    "",
    "What holds, of held-out prompts and pairs (not shown: the 95% interval contains the value that is compared with):",
    ...conclusionLines(conclusions)
  ].join("\n")
}
