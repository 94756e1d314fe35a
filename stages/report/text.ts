/** The summary of a run as text, short enough for a terminal. */
import type { RunSummary } from "../common/summary.ts"
import type { WorldSummary } from "../world/summary.ts"
import type { Estimate } from "../common/statistics.ts"

/** Columns two spaces apart; the last is not padded. */
const columns = (rows: ReadonlyArray<ReadonlyArray<string>>): Array<string> => {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd()
  )
}

const digits = (value: number | null): string => (value === null ? "–" : value.toFixed(3))
export const plusMinus = (value: { readonly mean: number; readonly standardError: number } | null): string =>
  value === null ? "–" : `${value.mean.toFixed(3)} ± ${value.standardError.toFixed(3)}`
export const within = (value: Estimate | null): string =>
  value === null ? "–" : `${value.mean.toFixed(3)} (${value.low.toFixed(3)} to ${value.high.toFixed(3)})`

const turns = (byTurn: ReadonlyArray<{ readonly kept: Estimate }>): string => byTurn.map(({ kept }) => kept.mean.toFixed(2)).join(", ")

/** A line for each version, the last one's gains, the reward models, and what Ghost Attention and distillation did. */
export const summaryText = (summary: WorldSummary): string => {
  const { prompts, versions, controls, gain, rewardModels, ghostAttention: ghost, contextDistillation: distilled } = summary
  const models = (["helpfulness", "safety"] as const).flatMap((name) => {
    const model = rewardModels[name]
    return model === null ? [] : [[name, within(model.accuracy), digits(model.lengthOnly.mean), digits(model.bagOfWords.mean)]]
  })
  const kept = [
    ...(ghost?.withTurns ? [`with it ${turns(ghost.withTurns)}`] : []),
    ...(ghost?.withoutTurns ? [`without ${turns(ghost.withoutTurns)}`] : [])
  ]
  return [
    `${prompts.helpfulness} held-out prompts to help with, ${prompts.safety} to refuse, answered by every version. By the oracle: helpfulness and safety`,
    "(± standard error), violations, false refusals; by the last reward models: R_h, R_s, R_c of all answers but the unscored (empty, or with",
    "tags of the chat format in them).",
    "",
    ...columns([
      ["version", "helpfulness", "safety", "R_h", "R_s", "R_c", "violations", "false refusals", "unscored"],
      ...[...versions, ...controls.map((control) => ({ ...control, name: `control: ${control.name}` }))].map((one) => [
        ...[one.name, plusMinus(one.helpfulness), plusMinus(one.safety), digits(one.rewardHelpfulness), digits(one.rewardSafety)],
        ...[digits(one.reward?.mean ?? null), digits(one.violationRate), digits(one.falseRefusalRate), `${one.unscored}`]
      ])
    ]),
    "",
    ...columns([
      [`${versions.at(-1)!.name} above`, "helpfulness (95%)", "safety (95%)"],
      ...gain.map(({ over, helpfulness, safety }) => [over, within(helpfulness), within(safety)])
    ]),
    "",
    ...columns([["reward model", "accuracy (95%)", "length alone", "bag of words"], ...models]),
    "",
    ...(kept.length === 0 ? [] : [`Ghost Attention, instruction of the first turn kept, turn by turn: ${kept.join("; ")}.`]),
    ...(distilled === null
      ? []
      : [
          `Context distillation kept ${distilled.kept} of ${distilled.prompts} prompts: safety ${digits(distilled.before)} before, ${digits(distilled.after)} after, gain ${within(distilled.gain)}.`
        ])
  ]
    .join("\n")
    .trimEnd()
}

/** The reward model, what choosing the best is worth, and rewards before and after tuning on the best. */
export const runSummaryText = ({ rewardModel, bestOfK, before, after }: RunSummary): string => {
  const { preferShorter, shuffledLabels } = rewardModel.controls
  return [
    ...columns([
      [`of ${rewardModel.pairs} held-out pairs`, "right (95%)"],
      ["reward model", within(rewardModel.accuracy)],
      ["the shorter response", within(preferShorter)],
      ["labels shuffled", within(shuffledLabels)]
    ]),
    "",
    ...columns([
      ["reward by another model", "mean (95%)", "median", "greatest", "prompts", "samples", "ended"],
      ...Object.entries({ before, after }).map(([name, one]) => [
        ...[name, within(one.mean), within(one.median), within(one.max)],
        ...[one.prompts, one.completions, one.finished].map(String)
      ])
    ]),
    "",
    ...columns([["best of", "reward by another model (95%)"], ...bestOfK.byN.map(({ n, reward }) => [`${n}`, within(reward)])]),
    `The best of all is ${within(bestOfK.gain)} above the mean, ${within(bestOfK.mean)}.`
  ].join("\n")
}
