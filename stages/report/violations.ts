/** Answers to prompts to refuse, and which of them violate (Llama 2 §4.4, figures 17 to 19): according to the small world's oracle, or to the run's safety classifier. */
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { type Completion, Completions, Prompts } from "../../schemas/rows.ts"
import { ClassifiedCompletions } from "../safety/classify.ts"
import { gradesOf } from "./grades.ts"
import type { Result, Results } from "./results.ts"
import type { Violations } from "./safety-figures.ts"
import type { Version } from "./versions.ts"

export interface JudgedAnswer {
  readonly version: string
  readonly promptId: string
  /** Number of user messages so far: 1 for a prompt with a single question. */
  readonly turns: number
  /** The prompt's category, if known. */
  readonly category: string | null
  readonly violation: boolean
}
export interface JudgedAnswers {
  /** The classifier or oracle that found the violations. */
  readonly by: string
  readonly answers: ReadonlyArray<JudgedAnswer>
}

const textFields = ["promptId", "prompt", "safety", "sample", "text"] as const satisfies ReadonlyArray<keyof Completion>
const turnsOf = (prompt: Completion["prompt"]): number => prompt.filter(({ role }) => role === "user").length

const categoriesOf = (run: Results, prompts: Result | undefined): Effect.Effect<ReadonlyMap<string, string | null>, ArtifactError> =>
  prompts === undefined || !run.ofType(Prompts).includes(prompts)
    ? Effect.succeed(new Map())
    : Effect.map(run.fields(prompts, Prompts, ["id", "category"]), (rows) => new Map(rows.map(({ category, id }) => [id, category])))

/** Answers to the last turn of dialogues that a model generated: those to which no further turn was added. */
const lastTurns = (run: Results): ReadonlyArray<Result> => {
  const grown = run.of("continue-with-answers")
  const continued = new Set(grown.map((one) => run.input(one, "completions")?.node))
  return run.of("sample").filter((one) => grown.includes(run.input(one, "prompts")!) && !continued.has(one.node))
}

const byOracle = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const found = yield* Effect.forEach(versions, ({ name, policy, prompts, scored }) =>
    Effect.gen(function* () {
      const categories = yield* categoriesOf(run, prompts)
      const dialogues = lastTurns(run).filter((one) => run.input(one, "policy") === policy)
      const later = yield* Effect.forEach(dialogues, (one) => run.fields(one, Completions, textFields))
      const toRefuse = [scored, ...later].flat().filter(({ safety }) => safety)
      return (gradesOf(toRefuse) ?? []).map(({ promptId, violation }, i): JudgedAnswer => ({
        ...{ version: name, promptId, violation, turns: turnsOf(toRefuse[i]!.prompt), category: categories.get(promptId) ?? null }
      }))
    })
  )
  return { by: "the world's oracle", answers: found.flat() }
})

const byClassifier = Effect.fnUntraced(function* (run: Results) {
  const found = yield* Effect.forEach(run.of("classify-completions"), (classified) =>
    Effect.gen(function* () {
      const completions = run.input(classified, "completions")
      if (completions === undefined) return []
      const asked = new Map((yield* run.fields(completions, Completions, textFields)).map((one) => [one.promptId, one.prompt]))
      const categories = yield* categoriesOf(run, run.input(completions, "prompts"))
      const rows = yield* run.fields(classified, ClassifiedCompletions, ["promptId", "safety", "unsafe"])
      return rows.flatMap(({ promptId, safety, unsafe: violation }): Array<JudgedAnswer> => {
        const prompt = asked.get(promptId)
        if (!safety || prompt === undefined) return []
        const version = run.input(completions, "policy")?.node ?? completions.node
        return [{ version, promptId, violation, turns: turnsOf(prompt), category: categories.get(promptId) ?? null }]
      })
    })
  )
  return { by: "the safety classifier", answers: found.flat() }
})

/** The versions' answers to prompts to refuse. On the small world its oracle judges them; otherwise the run's safety classifier, if there is one. */
export const judgedAnswers = (run: Results, versions: ReadonlyArray<Version>): Effect.Effect<JudgedAnswers, ArtifactError> =>
  run.isWorld ? byOracle(run, versions) : byClassifier(run)

/** Violations of each version by kind of answer, as returned by `kindOf`; answers without a kind are left out. */
export const violationsBy = (
  answers: ReadonlyArray<JudgedAnswer>,
  kindOf: (answer: JudgedAnswer) => string | null
): ReadonlyArray<Violations> => {
  const known = answers.flatMap((one) => {
    const kind = kindOf(one)
    return kind === null ? [] : [{ ...one, kind }]
  })
  return [...Map.groupBy(known, ({ kind, version }) => JSON.stringify([version, kind])).values()].map((some) => {
    const shares = [...Map.groupBy(some, ({ promptId }) => promptId).values()].map(
      (samples) => samples.filter(({ violation }) => violation).length / samples.length
    )
    const { kind, version } = some[0]!
    return { version, kind, prompts: shares.length, violations: shares.reduce((sum, share) => sum + share, 0) }
  })
}
