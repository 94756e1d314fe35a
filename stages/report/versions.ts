/** Which sets of answers of a run can stand side by side: several policies' to the same prompts, scored by the same reward models. */
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { RunReport } from "./run-report.ts"
import type { Result, Results } from "./results.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"

/** What the report needs of a scored answer: not its tokens, which are most of it. */
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
  readonly scored: ReadonlyArray<Answer>
}

const scoring = ["score", "score-combined"]
const sampling = ["sample"]

/** What the run itself calls controls. */
const controlsOf = (run: Results): ReadonlySet<string> =>
  new Set(
    [...run.ofType(WorldSummaryReport), ...run.ofType(RunReport)].flatMap(({ config }) =>
      Array.isArray(config.controls) ? (config.controls as ReadonlyArray<unknown>).map(String) : []
    )
  )

/**
 * The largest set of policies that answered the same prompts at one temperature and were scored alike, in the order in which they were made; controls last. Empty where there are
 * not two.
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
      return [{ scores, policy, prompts, group: JSON.stringify([prompts.node, models, temperature, k]) }]
    })
    const groups = [...Map.groupBy(found, ({ group }) => group).values()].map((group) => [
      ...new Map(group.map((one) => [one.policy.node, one])).values()
    ])
    const largest = groups.reduce<(typeof groups)[number]>((best, one) => (one.length > best.length ? one : best), [])
    if (largest.length < 2) return []
    const controls = controlsOf(run)
    const versions = yield* Effect.forEach(largest, ({ policy, prompts, scores }) =>
      Effect.map(run.fields(scores, ScoredCompletions, answerFields), (scored): Version => ({
        name: policy.node,
        kind: controls.has(policy.node) ? "control" : "version",
        policy,
        prompts,
        scored
      }))
    )
    const order = ({ kind, policy }: Version) => run.place(policy) + (kind === "control" ? run.all.length : 0)
    return versions.toSorted((a, b) => order(a) - order(b))
  })

/** What later versions are compared with: SFT, or the first where none is called that. */
export const baselineOf = (versions: ReadonlyArray<Version>): Version | undefined =>
  versions.find(({ name }) => name === "sft") ?? versions[0]
/** The last that is no control. */
export const lastOf = (versions: ReadonlyArray<Version>): Version | undefined => versions.findLast(({ kind }) => kind === "version")
