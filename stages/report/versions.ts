/** Selects the sets of answers of a run that can be compared: several policies' answers to the same prompts, scored by the same reward models. */
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import type { Result, Results } from "./results.ts"

/** The fields of a scored answer that the report needs, without its tokens, which are most of the data. */
export const answerFields = [
  ...(["promptId", "prompt", "safety", "sample", "text", "finished"] as const),
  ...(["temperature", "reward", "helpfulnessScore", "safetyScore"] as const)
]
export type Answer = Pick<ScoredCompletion, (typeof answerFields)[number]>

export interface Version {
  readonly name: string
  readonly kind: "version" | "control"
  readonly policy: Result
  readonly prompts: Result
  /** Whether the run tuned policies to these reward models: the scores may then reflect what the models prefer rather than quality. */
  readonly isTunedTo: boolean
  readonly scored: ReadonlyArray<Answer>
}

const scoring = ["score", "score-combined"]
const sampling = ["sample"]

/**
 * The largest set of policies that answered the same prompts at one temperature and were scored by the same models, with R_c if available, in the order in which they were made; controls last. Empty if
 * there are fewer than two.
 */
export const versionsOf = (run: Results): Effect.Effect<ReadonlyArray<Version>, ArtifactError> =>
  Effect.gen(function* () {
    const found = run.of(...scoring).flatMap((scores) => {
      const said = run.input(scores, "completions")
      if (said === undefined || !sampling.includes(said.stage)) return []
      const [policy, prompts] = [run.input(said, "policy"), run.input(said, "prompts")]
      const models = ["helpfulness", "safety", "reward"].map((port) => run.input(scores, port)?.node ?? "")
      if (policy === undefined || prompts === undefined) return []
      const { k, temperature } = said.config
      return [{ scores, policy, prompts, models, group: JSON.stringify([prompts.node, models, temperature, k]) }]
    })
    const groups = [...Map.groupBy(found, ({ group }) => group).values()].map((group) => [
      ...new Map(group.map((one) => [one.policy.node, one])).values()
    ])
    // Scores from R_h and R_s together are preferred to those of a single reward model, such as the guard against reward hacking.
    const worth = (group: (typeof groups)[number]) =>
      group.length + (group[0]?.scores.stage === "score-combined" && group.length > 1 ? 1000 : 0)
    const largest = groups.reduce<(typeof groups)[number]>((best, one) => (worth(one) > worth(best) ? one : best), [])
    if (largest.length < 2) return []
    // Tuned by PPO and similar methods directly, or by choosing among samples.
    const tuning = [
      ...run.of("ppo", "rloo", "grpo"),
      ...run.of("select-best", "keep-best").flatMap((one) => run.inputs(one, "scored"))
    ].flatMap((one) => ["helpfulness", "safety", "reward"].map((port) => run.input(one, port)?.node))
    const versions = yield* Effect.forEach(largest, ({ models, policy, prompts, scores }) =>
      Effect.map(run.fields(scores, ScoredCompletions, answerFields), (scored): Version => ({
        isTunedTo: models.some((node) => node !== "" && tuning.includes(node)),
        name: policy.node,
        kind: run.controls.has(policy.node) ? "control" : "version",
        policy,
        prompts,
        scored
      }))
    )
    const order = ({ kind, policy }: Version) => run.place(policy) + (kind === "control" ? run.all.length : 0)
    return versions.toSorted((a, b) => order(a) - order(b))
  })

/** The version that later ones are compared with: SFT, or the first if none has that name. */
export const baselineOf = (versions: ReadonlyArray<Version>): Version | undefined =>
  versions.find(({ name }) => name === "sft") ?? versions[0]
/** The last one that is not a control. */
export const lastOf = (versions: ReadonlyArray<Version>): Version | undefined => versions.findLast(({ kind }) => kind === "version")

/** Whether a safety reward model scored any of its answers. */
export const hasSafetyScores = ({ scored }: Pick<Version, "scored">): boolean => scored.some(({ safetyScore }) => safetyScore !== null)
