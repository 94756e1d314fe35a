/**
 * Selects the best reward model so far, which scores the samples (Llama 2 §3.2.3): the candidate with the highest accuracy on all held-out
 * batches together.
 */
import { constants } from "node:fs"
import { copyFile, link, mkdir, readdir } from "node:fs/promises"
import { dirname, join, relative } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError, type ArtifactRef, type Checkpoint, type OutputSlot, type Role, written } from "../../schemas/artifact.ts"
import { ExplainedError, messageOf } from "../../schemas/explained-error.ts"
import { HelpfulnessReward, SafetyReward } from "../../schemas/checkpoint.ts"
import { costOf } from "../common/cost/estimator.ts"
import { unknownSize } from "../common/cost/size.ts"
import { type RewardAccuracy, RewardAccuracyReport } from "./evaluate-reward.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"

/** Reports that cannot be compared, or that do not match the candidates. */
class CandidatesError extends ExplainedError<CandidatesError>()("CandidatesError") {}
const doing = "Choosing the best reward model"

/** The index of the most accurate candidate; on ties the latest, which saw the newest responses. */
export const mostAccurate = (reports: ReadonlyArray<Pick<RewardAccuracy, "accuracy">>): number =>
  reports.reduce((best, { accuracy }, i) => (accuracy.mean >= reports[best]!.accuracy.mean ? i : best), 0)

/** The store's own file in an artifact; the copy gets its own. */
const manifest = "artifact.json"

/** Copies an artifact's files to another folder: as hard links, or as copies across file systems and where links are not supported. */
const copyArtifact = async (from: string, to: string): Promise<void> => {
  for (const entry of await readdir(from, { recursive: true, withFileTypes: true })) {
    const source = join(entry.parentPath, entry.name)
    const name = relative(from, source)
    if (!entry.isFile() || name === manifest) continue
    const target = join(to, name)
    await mkdir(dirname(target), { recursive: true })
    await link(source, target).catch((cause: NodeJS.ErrnoException) => {
      if (!["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "ENOSYS"].includes(cause.code ?? "")) throw cause
      return copyFile(source, target, constants.COPYFILE_FICLONE)
    })
  }
}

const copyBest = Effect.fn("copyBest")(function* <R extends Role>(
  candidates: ReadonlyArray<ArtifactRef<Checkpoint<R>>>,
  scores: ReadonlyArray<ArtifactRef<NonNullable<(typeof RewardAccuracyReport)["Artifact"]>>>,
  output: OutputSlot<Checkpoint<R>>
) {
  if (candidates.length === 0) return yield* EmptyDatasetError.of("choose the best reward model of", "no candidates")
  if (candidates.length !== scores.length)
    return yield* CandidatesError.of({
      doing,
      expected: "one accuracy report per candidate",
      found: `${candidates.length} candidates and ${scores.length} reports`,
      hint: "Pass one report per candidate, in the candidates' order."
    })
  const reports = yield* Effect.forEach(scores, (score) => readReport(score, RewardAccuracyReport))
  const sizes = [...new Set(reports.map(({ pairs }) => pairs))]
  if (sizes.length > 1)
    return yield* CandidatesError.of({
      doing,
      expected: "all candidates evaluated on the same held-out pairs",
      found: `reports on ${sizes.join(", ")} pairs`,
      hint: "Score each candidate on all held-out batches, including earlier ones."
    })
  const best = mostAccurate(reports)
  yield* Effect.tryPromise({
    try: () => copyArtifact(candidates[best]!.path, output.path),
    catch: (cause) =>
      ArtifactError.of({
        doing: `Copying the best reward model to ${output.path}`,
        expected: "a readable checkpoint and a writable folder",
        found: messageOf(cause),
        hint: "Free some space or set CARAVAN_HOME to a folder on another disk."
      })
  })
  return written(output, { candidate: best + 1, candidates: candidates.length, accuracy: reports[best]!.accuracy.mean })
})

export const bestHelpfulnessReward = Stage.make("best-helpfulness-reward", {
  description: "§3.2.3 selects the helpfulness reward model with the highest accuracy on all held-out batches",
  config: Schema.Struct({}),
  inputs: { candidates: Stage.many(HelpfulnessReward), scores: Stage.many(RewardAccuracyReport) },
  output: HelpfulnessReward,
  inherits: { tokenizer: "candidates" },
  seeded: false,
  run: Effect.fn("best-helpfulness-reward")(({ inputs, output }) => copyBest(inputs.candidates, inputs.scores, output))
})

export const bestSafetyReward = Stage.make("best-safety-reward", {
  description: "§3.2.3 selects the safety reward model with the highest accuracy on all held-out batches",
  config: Schema.Struct({}),
  inputs: { candidates: Stage.many(SafetyReward), scores: Stage.many(RewardAccuracyReport) },
  output: SafetyReward,
  inherits: { tokenizer: "candidates" },
  seeded: false,
  run: Effect.fn("best-safety-reward")(({ inputs, output }) => copyBest(inputs.candidates, inputs.scores, output))
})

export const bestHelpfulnessRewardCost = costOf(bestHelpfulnessReward, {
  size: ({ inputs }) => inputs.candidates[0] ?? unknownSize
})
export const bestSafetyRewardCost = costOf(bestSafetyReward, bestHelpfulnessRewardCost)
