/** The report's tables in addition to its figures: preference data, win rates, diversity, the guard against reward hacking. */
import type { BatchStatistics, PreferenceStatistics } from "../preferences/preference-statistics.ts"
import type { RewardHacking } from "../evaluation/reward-hacking.ts"
import type { SelfBleu } from "../evaluation/self-bleu.ts"
import type { Wins } from "../evaluation/win-rate.ts"
import type { WorldSummary } from "../world/summary-report.ts"
import { plusMinus, within } from "../common/text-table.ts"
import type { Table } from "./figure.ts"

const percent = (share: number | undefined): string | null => (share === undefined ? null : `${(100 * share).toFixed(1)}%`)

const lineOf = (data: string, batch: string, one: BatchStatistics) => ({
  ...{ data, batch, comparisons: one.comparisons, "turns per dialogue": one.turnsPerDialogue, "tokens per example": one.tokensPerExample },
  ...{ "tokens per prompt": one.tokensPerPrompt, "tokens per response": one.tokensPerResponse },
  "significantly better": percent(one.ratings?.significantlyBetter),
  better: percent(one.ratings?.better),
  "slightly better": percent(one.ratings?.slightlyBetter),
  "negligibly better": percent(one.ratings?.negligiblyBetterOrUnsure),
  ...{ "both safe": percent(one.safety?.bothSafe), "chosen safe": percent(one.safety?.chosenSafeOnly) },
  ...{ "both unsafe": percent(one.safety?.bothUnsafe), dropped: one.leftOut?.droppedUnsafe ?? null }
})

/** Like table 6, with the shares of ratings and of safety labels. */
export const statisticsTable = (statistics: PreferenceStatistics): Table => ({
  id: "preference-statistics",
  title: "Preference data by batch",
  caption:
    "Comparisons of each round. Dropped: pairs whose chosen response was unsafe while the other was safe. Shares of ratings are relative to the rated pairs, shares of safety labels to the labelled ones.",
  rows: (["helpfulness", "safety"] as const).flatMap((kind) => {
    const found = statistics[kind]
    return found === null ? [] : [...found.batches.map((one, i) => lineOf(kind, `${i + 1}`, one)), lineOf(kind, "all", found.total)]
  })
})

/** The table at the top of the page for a run on the small world. */
export const versionRows = ({ versions, controls }: WorldSummary): Table["rows"] =>
  [...versions, ...controls.map((control) => ({ ...control, name: `control: ${control.name}` }))].map((one) => ({
    version: one.name,
    helpfulness: plusMinus(one.helpfulness),
    safety: plusMinus(one.safety),
    R_h: one.rewardHelpfulness,
    R_s: one.rewardSafety,
    violations: one.violationRate,
    "false refusals": one.falseRefusalRate,
    unscored: one.unscored
  }))

const rateOf = (wins: Wins | null): string | null => (wins === null || wins.rate === null ? null : within(wins.rate))

/** The last version compared with SFT and the controls. */
export const gainTable = ({ versions, gain }: WorldSummary): Table => ({
  id: "gains",
  title: `${versions.at(-1)!.name} compared with SFT and the controls`,
  caption: "Differences in the oracle's grades on the same prompts, with 95% bootstrap intervals.",
  rows: gain.map(({ over, helpfulness, safety }) => ({ over, helpfulness: within(helpfulness), safety: within(safety) }))
})

/** Like figure 11. */
export const winRatesTable = ({ winRates }: WorldSummary): Table => ({
  id: "win-rates",
  title: "Win rates over SFT",
  caption:
    "Wins / (wins + losses) on the same prompts, without ties, with 95% Wilson intervals: according to the oracle and to the last round's reward models.",
  rows: winRates.map(({ name, oracle, rewardModels }) => ({
    ...{ version: name, "helpfulness, oracle": rateOf(oracle.helpfulness), "safety, oracle": rateOf(oracle.safety) },
    ...{ R_h: rateOf(rewardModels.helpfulness), R_s: rateOf(rewardModels.safety), R_c: rateOf(rewardModels.reward) }
  }))
})

/** Like figure 21. */
export const diversityTable = ({ versions }: typeof SelfBleu.Type): Table => ({
  id: "diversity",
  title: "Similarity of a model's answers to the same prompt",
  caption: "Self-BLEU of the samples of each prompt, mean over prompts with 95% intervals; lower is more diverse.",
  rows: versions.flatMap(({ name, byTemperature, byType = [] }) =>
    byTemperature.map(({ temperature, prompts, selfBleu }) => ({
      ...{ version: name, temperature, prompts },
      "Self-BLEU": selfBleu === null ? null : within(selfBleu),
      ...Object.fromEntries(
        byType.map(({ byTemperature: found, type }) => {
          const at = found.find((one) => one.temperature === temperature)
          return [type, at === undefined || at.selfBleu === null ? null : `${within(at.selfBleu)}, ${at.prompts} prompts`]
        })
      )
    }))
  )
})

/** §3.4.1: whether a reward model that was not used for tuning agrees. */
export const guardTable = ({ versions }: RewardHacking): Table => ({
  id: "guard",
  title: "The tuned-for reward and a general reward model's",
  caption:
    "Means over held-out prompts, and changes compared with the previous version, with 95% intervals. A version diverges if the first rises and the second falls.",
  rows: versions.map(({ name, reward, general, spearman, change }) => ({
    ...{ version: name, reward: within(reward), general: within(general), "rank correlation": spearman },
    ...{
      "change of reward": change === null ? null : within(change.reward),
      "change of general": change === null ? null : within(change.general)
    },
    diverges: change === null ? null : change.diverges ? "yes" : "no"
  }))
})
