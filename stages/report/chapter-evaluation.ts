/** Comparison of the versions (Llama 2 §3.4, §5.1): by the world's oracle if there is one, by reward models, and by diversity. */
import * as Effect from "effect/Effect"
import { CalibrationReport } from "../evaluation/calibration.ts"
import { RewardHackingReport } from "../evaluation/reward-hacking.ts"
import { type SelfBleu, SelfBleuReport } from "../evaluation/self-bleu.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"
import { ratingByScoreFigure, scoreByRatingFigure } from "./calibration-figure.ts"
import { tensionFigure, rewardsOfVersions, winRateParts } from "./comparison-figures.ts"
import { axis, existing, type Figure, free, type Section, series, withIntervals } from "./figure.ts"
import { distributionsFigure, versionsFigure } from "./figures.ts"
import { calibrationFigure } from "./grades.ts"
import { mtBenchCategoriesTable, mtBenchTable, xsTestTable, xsTestTypesTable } from "./published-tables.ts"
import type { Result, Results } from "./results.ts"
import { rewardModelsTable, rewardsFigure, runGainTable } from "./run-figures.ts"
import { RunReport } from "./run-report.ts"
import { diversityTable, gainTable, guardTable, winRatesTable } from "./tables.ts"
import { baselineOf, lastOf, type Version } from "./versions.ts"

/** Figure 21: Self-BLEU by temperature, with a line per version and a panel per type of prompt. A set named "sft at 1.3" is a point on sft's line. */
export const diversityFigure = ({ versions }: typeof SelfBleu.Type): Figure | undefined => {
  const rows = versions.flatMap(({ byTemperature, byType = [], name }) =>
    (byType.length === 0 ? [{ type: "all prompts", byTemperature }] : byType).flatMap(({ byTemperature: found, type }) =>
      found.flatMap(({ prompts, selfBleu, temperature }) =>
        selfBleu === null
          ? []
          : [
              {
                ...{ type, version: name.replace(/ at [\d.]+$/, ""), temperature },
                ...{ selfBleu: selfBleu.mean, low: selfBleu.low, high: selfBleu.high, prompts }
              }
            ]
      )
    )
  )
  if (new Set(rows.map(({ temperature }) => temperature)).size < 2) return undefined
  const x = axis("temperature", "temperature", { ...free, axis: { values: [...new Set(rows.map(({ temperature }) => temperature))] } })
  const color = series("version", "version", [...new Set(rows.map(({ version }) => version))])
  const types = [...new Set(rows.map(({ type }) => type))]
  const layer = withIntervals({ type: "rule", opacity: 0.5 }, { x, y: axis("selfBleu", "Self-BLEU", free), color })
  return {
    id: "diversity",
    title: "Similarity of the answers to a prompt, by temperature",
    caption:
      "Self-BLEU of the samples of each prompt, mean over prompts with 95% intervals; lower is more diverse. In the paper RLHF makes answers to factual prompts similar at any temperature, while answers to creative prompts stay diverse.",
    rows,
    spec:
      types.length === 1
        ? { width: 460, height: 260, layer }
        : { facet: { column: { field: "type", type: "nominal", title: null, sort: types } }, spec: { width: 270, height: 260, layer } }
  }
}

/** The policies whose answers a calibration counts. */
const policiesOf = (run: Results, one: Result): ReadonlyArray<string> =>
  run.inputs(one, "scored").flatMap((scored) => run.input(run.input(scored, "completions"), "policy")?.node ?? [])

export const evaluationChapter = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const summaries = yield* run.reports(WorldSummaryReport)
  const runs = yield* run.reports(RunReport)
  const bleu = yield* run.reports(SelfBleuReport)
  const calibrations = (yield* run.reports(CalibrationReport)).map((one) => ({ ...one, names: policiesOf(run, one) }))
  const guards = yield* run.reports(RewardHackingReport)
  const [baseline, last] = [baselineOf(versions), lastOf(versions)]
  const wins = yield* winRateParts(
    baseline === undefined ? [] : [baseline, ...versions.filter((one) => one !== baseline && one.name !== "base")]
  ).pipe(Effect.catch(() => Effect.succeed(undefined)))
  const isTold = summaries.length + runs.length > 0
  const section: Section = {
    title: "How the versions compare",
    figures: existing(
      ...summaries.map(({ content }) => versionsFigure(content)),
      ...runs.map(({ content }) => rewardsFigure(content)),
      !isTold && versions.length > 1 ? rewardsOfVersions(versions) : undefined,
      ...(wins?.figures ?? []),
      versions.some(({ scored }) => scored.some(({ helpfulnessScore, safetyScore }) => helpfulnessScore !== null || safetyScore !== null))
        ? distributionsFigure(versions)
        : undefined,
      last === undefined ? undefined : tensionFigure(last),
      ...calibrations.flatMap(({ content, names }) => [ratingByScoreFigure(content, names), scoreByRatingFigure(content, names)]),
      calibrations.length === 0 && run.isWorld ? calibrationFigure(versions) : undefined,
      ...bleu.map(({ content }) => diversityFigure(content))
    ),
    tables: [
      ...summaries.flatMap(({ content }) => [gainTable(content), winRatesTable(content)]),
      ...runs.flatMap(({ content }) => [runGainTable(content), rewardModelsTable(content)]),
      ...(summaries.length === 0 && wins !== undefined && wins.table.rows.length > 0 ? [wins.table] : []),
      ...bleu.map(({ content }) => diversityTable(content)),
      ...guards.map(({ content }) => guardTable(content))
    ]
  }
  const published: ReadonlyArray<Section> = runs.flatMap(({ content: { mtBench, xsTest } }) => [
    { title: "XSTest", tables: xsTest === null ? [] : [xsTestTable(xsTest), xsTestTypesTable(xsTest)] },
    { title: "MT-Bench", tables: mtBench === null ? [] : [mtBenchTable(mtBench), mtBenchCategoriesTable(mtBench)] }
  ])
  return [section, ...published]
})
