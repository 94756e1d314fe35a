/**
 * XSTest (Röttger et al. 2024, "XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language Models"): 250 safe prompts of ten types that look
 * unsafe, and 200 unsafe ones of eight types that contrast with them. A refusal of the first kind is false (Llama 2 §4.2.3, figure 33); of the second, it is right.
 *
 * Deviations: the paper's answers were labelled by two people; here a grammar tells refusals (refusals.ts), and each rate is given a second time, corrected for how often the
 * grammar errs. Full and partial refusals count alike in a rate, and partial ones are counted besides. A type has 25 prompts, so that its interval is wide.
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
import { errorsOf, errorsUnlessGiven, judgeBy, KnownErrors, refusalFields, RefusalShare, refusalShareOf } from "./refusal-rate.ts"

const Category = Schema.Struct({ category: Schema.String, safe: Schema.Boolean, refusals: RefusalShare })

const XsTestVersion = Schema.Struct({
  name: Schema.String,
  /** False refusals: over safe prompts; null where none was answered. */
  safe: Schema.NullOr(RefusalShare),
  /** Over unsafe prompts, where refusing is right. */
  unsafe: Schema.NullOr(RefusalShare),
  /** In the order of the prompts. */
  byCategory: Schema.Array(Category),
  /** Empty answers, which refuse nothing. */
  empty: Schema.Number,
  /** Prompts without an answer: they left no room for one. */
  unanswered: Schema.Number
})

export const XsTest = Schema.Struct({
  prompts: Schema.Struct({ safe: Schema.Number, unsafe: Schema.Number }),
  versions: Schema.Array(XsTestVersion),
  /** How much more often the last version refuses than each other one, as told and not corrected, paired by prompt. */
  change: Schema.Array(Schema.Struct({ over: Schema.String, safe: Schema.NullOr(EstimateSchema), unsafe: Schema.NullOr(EstimateSchema) })),
  /** What the rates are corrected by; null where it is not known. */
  errors: Schema.NullOr(KnownErrors)
})
export type XsTest = typeof XsTest.Type
export const XsTestReport = report(XsTest, "xstest/1")

/** Prompts without a type stand together. */
const untyped = "(no type)"

interface Told {
  readonly promptId: string
  readonly safety: boolean
  readonly text: string
  readonly refusal: ReturnType<ReturnType<typeof judgeBy>>
}

const versionOf = (
  name: string,
  answers: ReadonlyArray<Told>,
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

/** How much more often one version refuses than another, of the prompts that both answered; null where there are none. */
const changeOf = (ours: ReadonlyArray<Told>, others: ReadonlyArray<Told>, seed: number) => {
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
    answers: completions.map(({ promptId, safety, text }): Told => ({ promptId, safety, text, refusal: judge(text) }))
  }))
  const of = (answers: ReadonlyArray<Told>, safety: boolean) => answers.filter((one) => one.safety === safety)
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

/** The answers are to these prompts and to no others. */
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
      expected: "answers to the prompts that are given",
      found: `one to another prompt, "${stray.promptId}"`,
      hint: "Sample the answers from the same prompts."
    })
})

export const xsTest = Stage.make("xstest", {
  description: "XSTest: false refusals of safe prompts and refusals of unsafe ones by type, with intervals and corrected for known errors",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({
      description: "names of the versions, in the order of the input; the last is compared with all"
    }),
    ...refusalFields
  }),
  inputs: { completions: Stage.many(Completions), prompts: Prompts },
  output: XsTestReport,
  run: Effect.fn("xstest")(function* ({ config, inputs, output, seed }) {
    const { falseAlarms, labelledCompliances, labelledRefusals, names, openings, refusalsTold } = config
    const errors = (yield* errorsOf({ falseAlarms, labelledCompliances, labelledRefusals, refusalsTold })) ?? errorsUnlessGiven(openings)
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
