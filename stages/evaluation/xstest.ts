/**
 * XSTest (Röttger et al. 2024, "XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language Models"): 250 safe prompts of ten types that look
 * unsafe, and 200 contrasting unsafe ones of eight types. A refusal of the first kind is false (Llama 2 §4.2.3, figure 33); of the second kind, it is right.
 *
 * Deviations: two people labelled the paper's answers; here a grammar detects refusals (refusals.ts), and each rate is also reported corrected for the
 * grammar's error rates. Full and partial refusals count equally in a rate, and partial ones are also counted separately. A type has 25 prompts, so its interval is wide.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { type Completion, Completions, type Prompt, Prompts } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { checkNames, checkPromptIds, meanByPrompt, PairingError, promptOf } from "../common/pairing.ts"
import { pairedBootstrap } from "../common/statistics.ts"
import type { ErrorRates } from "./corrected-share.ts"
import { errorsOf, defaultErrors, judgeBy, KnownErrors, refusalFields, RefusalShare, refusalShareOf } from "./refusal-rate.ts"

const Category = Schema.Struct({ category: Schema.String, safe: Schema.Boolean, refusals: RefusalShare })

const XsTestVersion = Schema.Struct({
  name: Schema.String,
  /** False refusals: over safe prompts; null if none was answered. */
  safe: Schema.NullOr(RefusalShare),
  /** Over unsafe prompts, where refusing is right. */
  unsafe: Schema.NullOr(RefusalShare),
  /** In the order of the prompts. */
  byCategory: Schema.Array(Category),
  /** Empty answers, which refuse nothing. */
  empty: Schema.Number,
  /** Prompts without an answer because they left no space for one. */
  unanswered: Schema.Number
})

export const XsTest = Schema.Struct({
  prompts: Schema.Struct({ safe: Schema.Number, unsafe: Schema.Number }),
  versions: Schema.Array(XsTestVersion),
  /** The last version's refusal rate minus each other version's, uncorrected, paired by prompt. */
  change: Schema.Array(Schema.Struct({ over: Schema.String, safe: Schema.NullOr(EstimateSchema), unsafe: Schema.NullOr(EstimateSchema) })),
  /** The error rates used for correction; null if unknown. */
  errors: Schema.NullOr(KnownErrors)
})
export type XsTest = typeof XsTest.Type
export const XsTestReport = report(XsTest, "xstest/1")

/** Group for prompts without a type. */
const untyped = "(no type)"

interface LabelledAnswer {
  readonly promptId: string
  readonly safety: boolean
  readonly text: string
  readonly refusal: ReturnType<ReturnType<typeof judgeBy>>
}

const versionOf = (
  name: string,
  answers: ReadonlyArray<LabelledAnswer>,
  prompts: ReadonlyArray<Prompt>,
  errors: ErrorRates | undefined
): typeof XsTestVersion.Type => {
  const part = (safety: boolean) =>
    refusalShareOf(
      answers.filter((one) => one.safety === safety),
      errors
    )
  const answered = new Set(answers.map(({ promptId }) => promptId))
  const kinds = Map.groupBy(prompts, ({ category, safety }) => JSON.stringify([category ?? untyped, safety]))
  const byCategory = [...kinds.values()].flatMap((own) => {
    const ids = new Set(own.map(({ id }) => id))
    const refusals = refusalShareOf(
      answers.filter(({ promptId }) => ids.has(promptId)),
      errors
    )
    return refusals === null ? [] : [{ category: own[0]!.category ?? untyped, safe: !own[0]!.safety, refusals }]
  })
  return {
    ...{ name, safe: part(false), unsafe: part(true), byCategory },
    empty: answers.filter(({ text }) => text.trim() === "").length,
    unanswered: prompts.filter(({ id }) => !answered.has(id)).length
  }
}

/** The difference of two versions' refusal rates on the prompts that both answered; null if there are none. */
const changeOf = (ours: ReadonlyArray<LabelledAnswer>, others: ReadonlyArray<LabelledAnswer>, seed: number) => {
  const [own, before] = [ours, others].map((rows) => meanByPrompt(rows, ({ refusal }) => (refusal === undefined ? 0 : 1)))
  const both = [...own!.keys()].filter((id) => before!.has(id))
  return both.length === 0
    ? null
    : pairedBootstrap(
        both.map((id) => own!.get(id)!),
        both.map((id) => before!.get(id)!),
        seed
      )
}

export const xsTestOf = (
  versions: ReadonlyArray<{ readonly name: string; readonly completions: ReadonlyArray<Completion> }>,
  prompts: ReadonlyArray<Prompt>,
  { errors, openings, seed }: { readonly openings: ReadonlyArray<string>; readonly errors: ErrorRates | undefined; readonly seed: number }
): XsTest => {
  const judge = judgeBy(openings)
  const told = versions.map(({ completions, name }) => ({
    name,
    answers: completions.map(({ promptId, safety, text }): LabelledAnswer => ({ promptId, safety, text, refusal: judge(text) }))
  }))
  const of = (answers: ReadonlyArray<LabelledAnswer>, safety: boolean) => answers.filter((one) => one.safety === safety)
  const last = told.at(-1)!.answers
  return {
    prompts: { safe: prompts.filter(({ safety }) => !safety).length, unsafe: prompts.filter(({ safety }) => safety).length },
    versions: told.map(({ answers, name }) => versionOf(name, answers, prompts, errors)),
    change: told.slice(0, -1).map(({ answers, name }) => ({
      over: name,
      safe: changeOf(of(last, false), of(answers, false), seed),
      unsafe: changeOf(of(last, true), of(answers, true), seed)
    })),
    errors: errors ?? null
  }
}

/** Fails unless the answers belong to these prompts. */
const checkAnswers = Effect.fnUntraced(function* (
  completions: ReadonlyArray<Completion>,
  prompts: ReadonlyArray<Prompt>,
  doing: string
): Effect.fn.Return<void, PairingError> {
  yield* checkPromptIds([...prompts, ...completions.map(promptOf)], doing)
  const known = new Set(prompts.map(({ id }) => id))
  const stray = completions.find(({ promptId }) => !known.has(promptId))
  if (stray !== undefined)
    return yield* PairingError.of({
      doing,
      expected: "answers to the given prompts",
      found: `an answer to another prompt, "${stray.promptId}"`,
      hint: "Sample the answers from the same prompts."
    })
})

export const xsTest = Stage.make("xstest", {
  description:
    "XSTest: false refusals of safe prompts and refusals of unsafe ones by type, with intervals, also corrected for known error rates",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({
      description: "names of the versions, in the order of the input; the last one is compared with all others"
    }),
    ...refusalFields
  }),
  inputs: { completions: Stage.many(Completions), prompts: Prompts },
  output: XsTestReport,
  run: Effect.fn("xstest")(function* ({ config, inputs, output, seed }) {
    const { falseAlarms, labelledCompliances, labelledRefusals, names, openings, refusalsTold } = config
    const errors = (yield* errorsOf({ falseAlarms, labelledCompliances, labelledRefusals, refusalsTold })) ?? defaultErrors(openings)
    yield* checkNames(names, inputs.completions.length, "Counting refusals of XSTest's prompts")
    const prompts = yield* readRows(inputs.prompts, Prompts)
    if (prompts.length === 0) return yield* EmptyDatasetError.of("count refusals of", "no prompts")
    const versions = yield* Effect.forEach(
      inputs.completions,
      Effect.fnUntraced(function* (set, i) {
        const completions = yield* readRows(set, Completions)
        const name = names[i]!
        if (completions.length === 0) return yield* EmptyDatasetError.of(`count refusals of ${name} in`, "no completions")
        yield* checkAnswers(completions, prompts, `Counting refusals of ${name}`)
        return { name, completions }
      })
    )
    return yield* writeReport(output, xsTestOf(versions, prompts, { openings, errors, seed }))
  })
})
