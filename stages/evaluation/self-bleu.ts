/**
 * Diversity of a model's answers (Llama 2 §5.1, figure 21): Self-BLEU of the K samples of each prompt by temperature. RLHF reduces the diversity of
 * answers to factual prompts, and less so that of answers to creative ones: with `types`, prompts of each type are also measured separately.
 *
 * bleu.ts defines BLEU, its smoothing and its words. Self-BLEU increases with K (more references, more matches): compare versions at the same K.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type Completion, Completions, Prompts } from "../../schemas/rows.ts"
import { words } from "../common/words.ts"
import { selfBleu as selfBleuOf } from "./bleu.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { bySample, checkNames, PairingError } from "../common/pairing.ts"
import { bootstrapMean } from "../common/statistics.ts"
import { anyShare } from "../common/unfit.ts"

export const Diversity = Schema.Struct({
  temperature: Schema.Number,
  /** Prompts with at least two non-empty answers; the others are left out. */
  prompts: Schema.Number,
  leftOut: Schema.Number,
  completions: Schema.Number,
  /** Mean over prompts, with its interval over prompts; null if no prompt has two answers. */
  selfBleu: Schema.NullOr(EstimateSchema)
})
export type Diversity = typeof Diversity.Type
export const SelfBleu = Schema.Struct({
  versions: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      byTemperature: Schema.Array(Diversity),
      /** The same over the prompts of each type; absent if no types were given. */
      byType: Schema.optionalKey(Schema.Array(Schema.Struct({ type: Schema.String, byTemperature: Schema.Array(Diversity) })))
    })
  )
})
export const SelfBleuReport = report(SelfBleu, "self-bleu/1")

type Answer = Pick<Completion, "promptId" | "text" | "temperature">

/** The answers to a prompt as words; empty answers are ignored. */
const answersOf = (samples: ReadonlyArray<Answer>) => samples.map(({ text }) => words(text)).filter((answer) => answer.length > 0)

/** Skips the prompts that have fewer than two answers at a temperature. */
const skipAlone = (completions: ReadonlyArray<Completion>, name: string, skipped: SkippedRows) => {
  const what = `prompts of "${name}"`
  const prompts = Map.groupBy(completions, ({ promptId, temperature }) => JSON.stringify([promptId, temperature]))
  for (const samples of prompts.values()) {
    const [{ prompt, promptId: id, temperature }] = samples as [Completion]
    const reason = "with fewer than two answers that are not empty"
    if (answersOf(samples).length < 2) skipped.add({ what, reason, id, row: { prompt, temperature } })
  }
  return skipped.check(what, prompts.size, anyShare)
}

/** Self-BLEU at each temperature, in ascending order. */
export const diversityOf = (completions: ReadonlyArray<Answer>, seed: number): ReadonlyArray<Diversity> =>
  [...Map.groupBy(completions, ({ temperature }) => temperature)]
    .sort(([a], [b]) => a - b)
    .map(([temperature, rows]) => {
      const prompts = [...Map.groupBy(rows, ({ promptId }) => promptId).values()].map(answersOf)
      const measured = prompts.filter((answers) => answers.length >= 2)
      return {
        temperature,
        prompts: measured.length,
        leftOut: prompts.length - measured.length,
        completions: measured.flat().length,
        selfBleu: measured.length === 0 ? null : bootstrapMean(measured.map(selfBleuOf), seed)
      }
    })

/** Fails for types with duplicate names, or types without the prompts whose categories they list. */
const checkTypes = (types: ReadonlyArray<typeof Type.Type>, hasPrompts: boolean): Effect.Effect<void, PairingError> => {
  const names = types.map(({ name }) => name)
  const isFine = hasPrompts && new Set(names).size === names.length
  return isFine
    ? Effect.void
    : PairingError.of({
        doing: "Measuring the similarity of answers by type of prompt",
        expected: "a different name for each type, and the prompts",
        found: `the types ${JSON.stringify(names)} and ${hasPrompts ? "the prompts" : "no prompts"}`,
        hint: "Connect the prompts of the answers, or remove the types."
      })
}

/** A type of prompts, and the prompt categories that belong to it. */
const Type = Schema.Struct({ name: Schema.String, categories: Schema.Array(Schema.String) })

export const selfBleu = Stage.make("self-bleu", {
  description: "figure 21: similarity of a model's answers to the same prompt (Self-BLEU), by temperature",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({ description: "names of the versions, in the order of the input" }),
    types: Schema.Array(Type)
      .pipe(Schema.withDecodingDefaultKey(Effect.succeed([])))
      .annotate({
        description:
          "types of prompts to measure separately, by their categories; needs the prompts; empty: none. Figure 21: creative and factual prompts"
      })
  }),
  inputs: {
    completions: Stage.many(Completions),
    /** For the categories in `types`. */
    prompts: Stage.optional(Prompts)
  },
  output: SelfBleuReport,
  run: Effect.fn("self-bleu")(function* ({ config, inputs, output, seed, skipped }) {
    yield* checkNames(config.names, inputs.completions.length, "Measuring the similarity of answers")
    const { types } = config
    if (types.length > 0) yield* checkTypes(types, inputs.prompts !== undefined)
    const prompts = inputs.prompts === undefined ? [] : yield* readRows(inputs.prompts, Prompts)
    const categories = new Map(prompts.map(({ category, id }) => [id, category]))
    const versions: Array<(typeof SelfBleu.Type)["versions"][number]> = []
    for (const [i, set] of inputs.completions.entries()) {
      const name = config.names[i]!
      const completions = yield* readRows(set, Completions)
      // A duplicate sample would count as a similar answer.
      for (const [temperature, rows] of Map.groupBy(completions, (one) => one.temperature))
        yield* bySample(rows, `Measuring the similarity of answers of "${name}" at ${temperature}`)
      yield* skipAlone(completions, name, skipped)
      const ofType = (wanted: ReadonlyArray<string>) =>
        completions.filter(({ promptId }) => wanted.includes(categories.get(promptId) ?? ""))
      const byType = types.map((type) => ({ type: type.name, byTemperature: diversityOf(ofType(type.categories), seed) }))
      versions.push({ name, byTemperature: diversityOf(completions, seed), ...(types.length === 0 ? {} : { byType }) })
    }
    if (versions.every(({ byTemperature }) => byTemperature.every((one) => one.selfBleu === null)))
      return yield* EmptyDatasetError.of("compare answers", "no prompt with two non-empty answers; sample with k of 2 or more")
    return yield* writeReport(output, { versions })
  })
})
