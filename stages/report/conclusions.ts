/** The conclusions of a run, in words: from its summary or, if there is none, from its reports and answers. */
import * as Effect from "effect/Effect"
import { chance, conclusion, nothing } from "../evaluation/conclusions.ts"
import type { Conclusion } from "../evaluation/run-summary.ts"
import { meanByPrompt } from "../common/pairing.ts"
import { pairedBootstrap } from "../common/statistics.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import { RewardAccuracyReport } from "../reward/evaluate-reward.ts"
import { worldConclusions } from "../world/conclusions.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"
import type { Results } from "./results.ts"
import { RunReport } from "./run-report.ts"
import { baselineOf, lastOf, type Version } from "./versions.ts"

/** The last version's reward minus the baseline's and each control's, on prompts that both have a score for. */
export const gainsOf = (versions: ReadonlyArray<Version>): ReadonlyArray<Conclusion> => {
  const [last, baseline] = [lastOf(versions), baselineOf(versions)]
  if (last === undefined) return []
  const ours = meanByPrompt(last.scored, ({ reward }) => scoreOf(reward))
  return versions
    .filter((one) => one !== last && (one === baseline || one.kind === "control"))
    .flatMap(({ name, scored }) => {
      const theirs = meanByPrompt(scored, ({ reward }) => scoreOf(reward))
      const both = [...ours.keys()].filter((id) => theirs.has(id))
      if (both.length === 0) return []
      const gain = pairedBootstrap(
        both.map((id) => ours.get(id)!),
        both.map((id) => theirs.get(id)!),
        0
      )
      return [
        conclusion(
          `${last.name} is better than ${name} according to the reward models${last.isTunedTo ? " that the versions were tuned to" : ""}`,
          "difference in R_c",
          gain,
          nothing
        )
      ]
    })
}

export const runConclusions = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const told = [
    ...(yield* run.reports(WorldSummaryReport)).flatMap(({ content }) => worldConclusions(content)),
    ...(yield* run.reports(RunReport)).flatMap(({ content }) => content.conclusions)
  ]
  if (told.length > 0) return told
  // The last evaluation of each kind of reward model, which is that of the model in use at the end.
  const accuracies = (yield* run.reports(RewardAccuracyReport)).map((one) => ({
    ...one,
    reward: run.input(run.input(one, "scores"), "reward")
  }))
  const last = [...new Map(accuracies.map((one) => [one.reward?.type ?? one.node, one])).values()]
  const models = last.map(({ content, node, reward }) =>
    conclusion(`${reward?.node ?? node} predicts which answer of a held-out pair was chosen`, "accuracy", content.accuracy, chance)
  )
  return [...models, ...gainsOf(versions)]
})
