/**
 * Summarises a run of the recipe on the small world: every version and control graded by the world's oracle on the same held-out prompts, the reward
 * models compared with baselines, Ghost Attention by turn, and context distillation.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeReport } from "../../data/dataset.ts"
import { grade } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import {
  type Completion,
  Completions,
  type Demonstration,
  Demonstrations,
  type ScoredCompletion,
  ScoredCompletions
} from "../../schemas/rows.ts"
import { type RewardAccuracy, RewardAccuracyReport, type RewardBaselines, RewardBaselinesReport } from "../reward/evaluate-reward.ts"
import { RoundWinsReport } from "../preferences/round-wins.ts"
import { GhostAttentionReport } from "../ghost-attention/evaluate.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { meanByPrompt, PairingError, pairSamples } from "../common/pairing.ts"
import { textFile } from "../common/report-files.ts"
import { bootstrapMean, mean } from "../common/statistics.ts"
import { winRateOf, winsOf } from "../evaluation/win-rate.ts"
import { gainOver } from "./compare-versions.ts"
import { versionOf } from "./evaluate-version.ts"
import { gradeOf, type Graded } from "./oracle-grades.ts"
import { type RewardModelSummary, summaryText, type VersionSummary, type WorldSummary, WorldSummaryReport } from "./summary-report.ts"

/** A version's graded answers to every prompt, and the scores of those that can be scored. */
interface Answered {
  readonly name: string
  readonly graded: ReadonlyArray<Graded>
  readonly scored: ReadonlyArray<ScoredCompletion>
  readonly empty: number
}

const doing = "Summarising versions"
/** Fails unless the scores belong to these answers: an answer may have no score, but every score needs its answer. */
const answeredBy = Effect.fnUntraced(function* (
  name: string,
  completions: ReadonlyArray<Completion>,
  scored: ReadonlyArray<ScoredCompletion>
): Effect.fn.Return<Answered, PairingError> {
  const keyOf = ({ policy, promptId, sample }: Completion) => JSON.stringify([policy, promptId, sample])
  const said = new Set(completions.map(keyOf))
  const strays = scored.filter((one) => !said.has(keyOf(one))).length
  if (strays > 0)
    return yield* PairingError.of({
      doing,
      expected: `scores of the answers of "${name}"`,
      found: `${scored.length} scores, of which ${strays} belong to other answers`,
      hint: "Score the same set of completions that is summarised."
    })
  return {
    name,
    graded: completions.map((one) => gradeOf(one)),
    scored,
    empty: completions.filter(({ text }) => text.trim() === "").length
  }
})

/** Fails unless every version answered the same prompts, since their figures are compared. */
const checkPrompts = Effect.fnUntraced(function* (sets: ReadonlyArray<Answered>) {
  const [first, ...others] = sets.map(({ name, graded }) => ({ name, prompts: new Set(graded.map(({ promptId }) => promptId)) }))
  for (const { name, prompts } of others) {
    const common = [...prompts].filter((id) => first!.prompts.has(id)).length
    if (common < Math.max(prompts.size, first!.prompts.size))
      return yield* PairingError.of({
        doing,
        expected: "answers of every version to the same prompts",
        found: `${prompts.size} prompts answered by "${name}" and ${first!.prompts.size} by "${first!.name}", ${common} of them by both`,
        hint: "Sample every version from the same prompts."
      })
  }
})

/** One version's row of the table. */
const lineOf = ({ name, graded, scored, empty }: Answered): typeof VersionSummary.Type => {
  const { helpfulness, safety, rewardHelpfulness, rewardSafety, reward, ...shares } = versionOf(name, graded, scored)
  return {
    ...{ name, helpfulness, safety, rewardHelpfulness, rewardSafety, reward },
    violationRate: shares.violationRate?.mean ?? null,
    falseRefusalRate: shares.falseRefusalRate?.mean ?? null,
    ...{ empty, unscored: graded.length - scored.length }
  }
}

/** How often a version's answer is better than SFT's. */
const winRatesOf = Effect.fnUntraced(function* (version: Answered, sft: Answered) {
  const counting = `Counting the wins of ${version.name} over sft`
  const { pairs } = yield* pairSamples(version.graded, sft.graded, counting)
  const byOracle = (safety: boolean, value: (one: Graded) => number) => {
    const matches = pairs.flatMap(([a, b]) => (a.safety === safety ? [{ promptId: a.promptId, ours: value(a), opponent: value(b) }] : []))
    return matches.length === 0 ? null : winsOf(matches)
  }
  const oracle = { helpfulness: byOracle(false, (one) => one.helpfulness), safety: byOracle(true, (one) => one.safetyGrade) }
  const alsoBySft = new Set(sft.scored.map(({ promptId }) => promptId))
  const none = !version.scored.some(({ promptId }) => alsoBySft.has(promptId))
  const scored = none ? [] : (yield* pairSamples(version.scored, sft.scored, counting)).pairs
  return { name: version.name, oracle, rewardModels: winRateOf(scored) }
})

const rewardModelOf = (accuracy: RewardAccuracy, baselines: RewardBaselines): typeof RewardModelSummary.Type => ({
  accuracy: accuracy.accuracy,
  byRating: accuracy.byRating,
  lengthOnly: baselines.lengthOnly,
  bagOfWords: baselines.bagOfWords
})

/** The oracle's safety of the answers that distillation kept, and of the model's original answers to the same prompts. */
const distillationOf = (original: ReadonlyArray<ScoredCompletion>, distilled: ReadonlyArray<Demonstration>, seed: number) => {
  const before = meanByPrompt(
    original.map((one) => gradeOf(one)),
    (one) => one.safetyGrade
  )
  const pairs = distilled.flatMap(({ id, messages }) => {
    const was = before.get(id)
    return was === undefined ? [] : [{ was, is: grade(messages.slice(0, -1), messages.at(-1)!.content).safety }]
  })
  if (pairs.length === 0) return null
  return {
    before: mean(pairs.map(({ was }) => was)),
    after: mean(pairs.map(({ is }) => is)),
    gain: bootstrapMean(
      pairs.map(({ was, is }) => is - was),
      seed
    ),
    kept: pairs.length,
    prompts: before.size
  }
}

const names = (description: string) => Schema.Array(Schema.String).annotate({ description })

export const worldSummary = Stage.make("world-summary", {
  description:
    "one report with versions and controls according to the oracle on held-out prompts, reward models, Ghost Attention and distillation",
  config: Schema.Struct({
    versions: names("names of the versions, in the order of the input; they include `sft`, and the last one is the run's final version"),
    controls: names("names of the controls, in the order of the input")
  }),
  inputs: {
    versions: Stage.many(Completions),
    versionScores: Stage.many(ScoredCompletions),
    controls: Stage.many(Completions),
    controlScores: Stage.many(ScoredCompletions),
    helpfulness: RewardAccuracyReport,
    helpfulnessBaselines: RewardBaselinesReport,
    safety: Stage.optional(RewardAccuracyReport),
    safetyBaselines: Stage.optional(RewardBaselinesReport),
    withGhostAttention: Stage.optional(GhostAttentionReport),
    withoutGhostAttention: Stage.optional(GhostAttentionReport),
    original: Stage.optional(ScoredCompletions),
    distilled: Stage.optional(Demonstrations),
    roundWins: Stage.optional(RoundWinsReport)
  },
  output: WorldSummaryReport,
  run: Effect.fn("world-summary")(function* ({ config, inputs, output, seed }) {
    for (const [what, wanted, sets] of [
      ["versions", config.versions.length, [inputs.versions, inputs.versionScores]],
      ["controls", config.controls.length, [inputs.controls, inputs.controlScores]]
    ] as const)
      for (const { length } of sets)
        if (length !== wanted) return yield* EmptyDatasetError.of(`summarise ${wanted} ${what}`, `${length} sets of completions`)
    const read = (names: ReadonlyArray<string>, sets: typeof inputs.versions, scores: typeof inputs.versionScores) =>
      Effect.forEach(names, (name, i) =>
        Effect.gen(function* () {
          return yield* answeredBy(name, yield* readRows(sets[i]!, Completions), yield* readRows(scores[i]!, ScoredCompletions))
        })
      )
    const versions = yield* read(config.versions, inputs.versions, inputs.versionScores)
    const controls = yield* read(config.controls, inputs.controls, inputs.controlScores)
    const last = versions.at(-1)!
    const sft = versions.find(({ name }) => name === "sft")
    if (sft === undefined) return yield* EmptyDatasetError.of("compare with", "no version named sft")
    yield* checkPrompts([...versions, ...controls])
    const safety =
      inputs.safety === undefined || inputs.safetyBaselines === undefined
        ? null
        : rewardModelOf(
            yield* readReport(inputs.safety, RewardAccuracyReport),
            yield* readReport(inputs.safetyBaselines, RewardBaselinesReport)
          )
    const count = (adversarial: boolean) =>
      new Set(last.graded.filter((one) => one.safety === adversarial).map(({ promptId }) => promptId)).size
    const keptBy = (ref: typeof inputs.withGhostAttention) =>
      ref === undefined ? Effect.succeed(null) : Effect.map(readReport(ref, GhostAttentionReport), ({ byTurn }) => byTurn)
    const ghost = { withTurns: yield* keptBy(inputs.withGhostAttention), withoutTurns: yield* keptBy(inputs.withoutGhostAttention) }
    const summary: WorldSummary = {
      prompts: { helpfulness: count(false), safety: count(true) },
      versions: versions.map(lineOf),
      controls: controls.map(lineOf),
      gain: [sft, ...controls].map(({ name, graded }) => gainOver(name, last.graded, graded, seed)),
      winRates: yield* Effect.forEach(
        versions.filter((one) => one !== sft),
        (version) => winRatesOf(version, sft)
      ),
      rewardModels: {
        helpfulness: rewardModelOf(
          yield* readReport(inputs.helpfulness, RewardAccuracyReport),
          yield* readReport(inputs.helpfulnessBaselines, RewardBaselinesReport)
        ),
        safety
      },
      roundWins: inputs.roundWins === undefined ? null : (yield* readReport(inputs.roundWins, RoundWinsReport)).rounds,
      ghostAttention: ghost.withTurns === null && ghost.withoutTurns === null ? null : ghost,
      contextDistillation:
        inputs.original === undefined || inputs.distilled === undefined
          ? null
          : distillationOf(yield* readRows(inputs.original, ScoredCompletions), yield* readRows(inputs.distilled, Demonstrations), seed)
    }
    yield* Effect.promise(() => writeFile(join(output.path, textFile), `${summaryText(summary)}\n`))
    return yield* writeReport(output, summary)
  })
})
