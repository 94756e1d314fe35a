/** The sections of a run's report, in the paper's order; a section exists if the run has results for it. */
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { ghostAttentionChapter } from "./chapter-ghost-attention.ts"
import { evaluationChapter } from "./chapter-evaluation.ts"
import { preferencesChapter } from "./chapter-preferences.ts"
import { pretrainingChapter } from "./chapter-pretraining.ts"
import { rewardModelsChapter } from "./chapter-reward-models.ts"
import { safetyChapter } from "./chapter-safety.ts"
import { tuningChapters } from "./chapter-tuning.ts"
import type { Section } from "./figure.ts"
import type { Results } from "./results.ts"
import type { Version } from "./versions.ts"

/** Replaces a section that cannot be read with the reason, so that the other sections are kept. */
const orWhyNot = (title: string, section: Effect.Effect<ReadonlyArray<Section>, ArtifactError>): Effect.Effect<ReadonlyArray<Section>> =>
  section.pipe(Effect.catch((error) => Effect.succeed([{ title, text: [`This section is missing: ${error.message}`] }])))

export const chapters = (run: Results, versions: ReadonlyArray<Version>): Effect.Effect<ReadonlyArray<Section>> =>
  Effect.map(
    Effect.all([
      orWhyNot("Pretraining data", pretrainingChapter(run)),
      orWhyNot("Preference data", preferencesChapter(run)),
      orWhyNot("Reward models", rewardModelsChapter(run)),
      orWhyNot("Rejection sampling and PPO", tuningChapters(run)),
      orWhyNot("Ghost Attention", ghostAttentionChapter(run)),
      orWhyNot("Safety", safetyChapter(run, versions)),
      orWhyNot("How the versions compare", evaluationChapter(run, versions))
    ]),
    (all) => all.flat()
  )
