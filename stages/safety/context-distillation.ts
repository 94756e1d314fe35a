/**
 * Safety context distillation (Llama 2 §4.2.4, table 39, figure 16): a safety preprompt goes before adversarial prompts, the model answers, and
 * the answers are fine-tuned on without the preprompt; each only where the safety reward model prefers it to the answer given without one.
 *
 *     preprompt -> sample -> withoutPreprompt -> score -> distil        (beside: sample -> score of the same prompts as they are)
 *
 * Where several samples of a prompt are given, the best of each side are compared. The paper says neither where the preprompt stands nor how its
 * templates are worded in full: both are hyperparameters.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { fitsChatFormat } from "../../models/chat.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import {
  type Completion,
  Completions,
  Demonstrations,
  type Message,
  type Prompt,
  Prompts,
  type ScoredCompletion,
  ScoredCompletions
} from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { pool, sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { sameMessages } from "../common/pairing.ts"
import { bootstrapMean, mean } from "../common/statistics.ts"

/** Preprompts that can't be made, or datasets that do not belong together. */
export class DistillationError extends Schema.TaggedError<DistillationError>()("DistillationError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String
}) {
  static of(fields: { readonly doing: string; readonly expected: string; readonly found: string; readonly hint: string }) {
    return new DistillationError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. ${fields.hint}`
    })
  }
}

/** Runs what may throw a DistillationError. */
const attempt = <A>(body: () => A): Effect.Effect<A, DistillationError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(body())
    } catch (cause) {
      if (cause instanceof DistillationError) return Effect.fail(cause)
      throw cause
    }
  })

const texts = (value: ReadonlyArray<string>, description: string) =>
  Schema.Array(Schema.String)
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))
    .annotate({ description })

const placeholder = "{adjective}"

/** Generic preprompts in the manner of table 39; each placeholder becomes another adjective. */
const genericTemplates = [
  `You are a ${placeholder} and ${placeholder} assistant.`,
  `You are a ${placeholder} assistant.`,
  `You are a ${placeholder} and ${placeholder} assistant that never gives out false or dangerous content.`,
  `You are a ${placeholder} assistant who gives helpful advice to users while preventing harm in any form.`
]
const safeAdjectives = ["safe", "responsible", "respectful", "careful", "wise"]

/** §4.2: the three risk categories; §4.2.1: safety first, then the risks, then more information. */
const categoryTemplates = {
  illicit:
    "The user may ask for help with something illicit or criminal. First see to anybody's immediate safety, if that is at risk. Then say politely that you can't help with it, say why it is harmful or against the law, and suggest something lawful instead.",
  hateful:
    "The user may ask for hateful or harmful content. Do not write it. First see to anybody's immediate safety, if that is at risk. Then say why such words do harm, give some context, and encourage the user to learn more about those whom they concern.",
  advice:
    "The user may ask for advice that takes a qualified professional. First see to immediate safety, if that is at risk. Then say that you are not qualified, give only general and well-known context, and encourage the user to ask a professional and reliable sources."
}

export const PrepromptConfig = Schema.Struct({
  kind: hyper("generic", "§4.2.4: one of the generic templates, or the answer template of the prompt's risk category", [
    "generic",
    "category"
  ]),
  place: hyper(
    "system",
    "where the preprompt goes: into the system message, before what that says; or before the last question. The first question may be cut from a long dialogue, these are not",
    ["system", "user"]
  ),
  templates: texts(genericTemplates, `generic preprompts, one drawn for each prompt; ${placeholder} becomes an adjective (table 39)`),
  adjectives: texts(safeAdjectives, "§4.2.4: adjectives associated with safe behaviour, drawn without repetition within a preprompt"),
  categoryTemplates: Schema.Record(Schema.String, Schema.String)
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(categoryTemplates)))
    .annotate({ description: "answer template of each risk category, by the prompt's category (§4.2, §4.2.4: illicit, hateful, advice)" }),
  otherCategories: hyper("generic", "prompts without a category, or of one that has no template: a generic preprompt, or left out", [
    "generic",
    "drop"
  ])
})
type PrepromptOptions = typeof PrepromptConfig.Type

/** The preprompt of a prompt: its category's, or a generic one drawn by seed and the prompt's id; undefined where it is left out. */
export const prepromptFor = (prompt: Prompt, options: PrepromptOptions, seed: number): string | undefined => {
  if (options.kind === "category") {
    const { category } = prompt
    if (category !== null && Object.hasOwn(options.categoryTemplates, category)) return options.categoryTemplates[category]
    if (options.otherCategories === "drop") return undefined
  }
  const random = new Random(seed, "preprompt", prompt.id)
  const template = random.pick(options.templates)
  const adjectives = random.shuffle([...new Set(options.adjectives)])
  let used = 0
  return template.replaceAll(placeholder, () => adjectives[used++]!)
}

const join = (preprompt: string, content: string): string => `${preprompt}\n\n${content}`

/** The prompt with the preprompt in its place. */
export const withPreprompt = (messages: ReadonlyArray<Message>, preprompt: string, place: "system" | "user"): ReadonlyArray<Message> => {
  const last = messages.length - 1
  if (place === "user") return messages.with(last, { ...messages[last]!, content: join(preprompt, messages[last]!.content) })
  return messages[0]?.role === "system"
    ? messages.with(0, { role: "system", content: join(preprompt, messages[0].content) })
    : [{ role: "system", content: preprompt }, ...messages]
}

const sameMessage = (a: Message | undefined, b: Message | undefined): boolean => a?.role === b?.role && a?.content === b?.content

/** What `withPreprompt` put before the original prompt; undefined when the one is not made of the other. */
export const prepromptOf = (prefixed: ReadonlyArray<Message>, original: ReadonlyArray<Message>): string | undefined => {
  if (prefixed.length === original.length + 1)
    return prefixed[0]!.role === "system" && sameMessages(prefixed.slice(1), original) ? prefixed[0]!.content : undefined
  if (prefixed.length !== original.length) return undefined
  const changed = prefixed.findIndex((message, i) => !sameMessage(message, original[i]))
  if (changed === -1) return undefined
  const [now, before] = [prefixed[changed]!, original[changed]!]
  const rest = join("", before.content)
  return now.role === before.role &&
    now.content.endsWith(rest) &&
    (now.role === "system" || changed === prefixed.length - 1) &&
    sameMessages(prefixed.with(changed, before), original)
    ? now.content.slice(0, -rest.length)
    : undefined
}

/** Throws a DistillationError when preprompts can't be made of these hyperparameters. */
const checkTemplates = (options: PrepromptOptions): void => {
  const refuse = (expected: string, found: string, hint: string) => {
    throw DistillationError.of({ doing: "Writing safety preprompts", expected, found, hint })
  }
  if (options.kind === "category" && Object.keys(options.categoryTemplates).length === 0)
    refuse("a template for one risk category at least", "none", 'Fill categoryTemplates, or take the kind "generic".')
  if (options.kind === "generic" || options.otherCategories === "generic") {
    if (options.templates.length === 0) refuse("generic templates", "none", "Fill templates.")
    const wanted = Math.max(...options.templates.map((template) => template.split(placeholder).length - 1))
    const distinct = new Set(options.adjectives).size
    if (distinct < wanted)
      refuse(`${wanted} different adjectives for a template`, `${distinct}`, "Add to adjectives, or shorten the template.")
  }
  for (const text of [...options.templates, ...options.adjectives, ...Object.values(options.categoryTemplates)]) {
    if (text.trim() === "") refuse("templates and adjectives with a text", "an empty one", "Take it out.")
    if (!fitsChatFormat([{ role: "user", content: text }]))
      refuse("texts without the chat format's own tags", JSON.stringify(text), "Take the tag out.")
  }
}

export const preprompt = Stage.make("preprompt", {
  description: "§4.2.4 adversarial prompts with a safety preprompt in front; others are left out",
  config: PrepromptConfig,
  inputs: { prompts: Prompts },
  output: Prompts,
  run: Effect.fn("preprompt")(function* ({ config, inputs, output, seed }) {
    yield* attempt(() => checkTemplates(config))
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const adversarial = prompts.filter((prompt) => prompt.safety)
    const rows = adversarial.flatMap((prompt) => {
      const text = prepromptFor(prompt, config, seed)
      // What the user says next is no part of the distilled exchange.
      return text === undefined ? [] : [{ ...prompt, messages: withPreprompt(prompt.messages, text, config.place), followUps: [] }]
    })
    if (adversarial.length > 0 && rows.length === 0)
      return yield* DistillationError.of({
        doing: "Writing safety preprompts",
        expected: `prompts of a category with a template (${Object.keys(config.categoryTemplates).join(", ")})`,
        found: `none among ${adversarial.length} adversarial prompts`,
        hint: 'Give the prompts a category, add its template to categoryTemplates, or take otherCategories "generic".'
      })
    const templated = rows.filter(({ category }) => category !== null && Object.hasOwn(config.categoryTemplates, category)).length
    return yield* writeDataset(output, rows, {
      metrics: {
        notAdversarial: prompts.length - adversarial.length,
        withoutTemplate: adversarial.length - rows.length,
        byCategory: config.kind === "category" ? templated : 0
      }
    })
  })
})

/**
 * Completions with the prompts that were asked originally, and how many were left out because they repeat the preprompt's words. Throws a
 * DistillationError for a completion whose prompt is not one of the originals with a preprompt.
 */
export const restorePrompts = (
  completions: ReadonlyArray<Completion>,
  prompts: ReadonlyArray<Prompt>
): { readonly rows: Array<Completion>; readonly echoed: number } => {
  const doing = "Taking preprompts off completions"
  const originals = new Map<string, Prompt>()
  for (const prompt of prompts) {
    const other = originals.get(prompt.id)
    if (other !== undefined && !sameMessages(other.messages, prompt.messages))
      throw DistillationError.of({
        doing,
        expected: "one prompt for each id",
        found: `two different ones for "${prompt.id}"`,
        hint: "Give prompts ids of their own before they are mixed."
      })
    originals.set(prompt.id, prompt)
  }
  const rows: Array<Completion> = []
  let echoed = 0
  for (const completion of completions) {
    const original = originals.get(completion.promptId)
    const text = original === undefined ? undefined : prepromptOf(completion.prompt, original.messages)
    if (original === undefined || text === undefined)
      throw DistillationError.of({
        doing,
        expected: `the prompt "${completion.promptId}" as it was before the preprompt`,
        found: original === undefined ? "no prompt of that id" : "one that differs by more than a preprompt, or by none",
        hint: "Wire the prompts that went into the preprompt stage, and the completions of what came out of it."
      })
    if (completion.text.includes(text)) echoed++
    else rows.push({ ...completion, prompt: original.messages, safety: original.safety })
  }
  return { rows, echoed }
}

export const withoutPreprompt = Stage.make("without-preprompt", {
  description: "§4.2.4 completions drawn under a preprompt, put back to the prompts without it; those that repeat its words are left out",
  config: Schema.Struct({}),
  inputs: { completions: Completions, prompts: Prompts },
  output: Completions,
  seeded: false,
  run: Effect.fn("without-preprompt")(function* ({ inputs, output }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const { rows, echoed } = yield* attempt(() => restorePrompts(completions, prompts))
    return yield* writeDataset(output, rows, { metrics: { echoed } })
  })
})

/** A prompt's best answer under a preprompt, beside its best without. Scores are the safety reward model's, in (0, 1). */
export interface Distilled {
  readonly promptId: string
  readonly prompt: ReadonlyArray<Message>
  readonly text: string
  /** Which of the prefixed sets it is from. */
  readonly set: number
  readonly original: number
  readonly distilled: number
  /** Whether it beats the original: not where the two are equal. */
  readonly kept: boolean
}

const safetyScoreOf = (completion: ScoredCompletion): number => {
  if (completion.safetyScore !== null) return completion.safetyScore
  throw DistillationError.of({
    doing: "Comparing answers by the safety reward model",
    expected: "completions that it scored",
    found: `no safety score for "${completion.promptId}"`,
    hint: "Score both sides with a safety reward model."
  })
}

const byPrompt = (completions: ReadonlyArray<ScoredCompletion>): ReadonlyMap<string, ReadonlyArray<ScoredCompletion>> =>
  Map.groupBy(completions, (completion) => completion.promptId)

/**
 * The best distilled answer of each adversarial prompt and whether it is kept, in the order in which the originals' prompts first appear; the first
 * among equals. Answers that were cut off are dropped from the distilled side where asked, never from the original's: they are what the model
 * answered. Throws a DistillationError when a prefixed completion's prompt is not the original's: a preprompt must not reach training.
 */
export const distilledAnswers = (
  original: ReadonlyArray<ScoredCompletion>,
  prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>,
  options: { readonly unfinished: "drop" | "keep" }
): { readonly answers: Array<Distilled>; readonly withoutOriginal: number; readonly withoutDistilled: number } => {
  const before = byPrompt(original.filter((completion) => completion.safety))
  const adversarial = prefixed.map((set) => set.filter((completion) => completion.safety))
  const sets = adversarial.map((set) => byPrompt(set.filter(({ finished }) => finished || options.unfinished === "keep")))
  const answers: Array<Distilled> = []
  let withoutDistilled = 0
  for (const [promptId, originals] of before) {
    const { prompt } = originals[0]!
    let best: { readonly score: number; readonly text: string; readonly set: number } | undefined
    sets.forEach((set, index) => {
      for (const completion of set.get(promptId) ?? []) {
        if (!sameMessages(completion.prompt, prompt))
          throw DistillationError.of({
            doing: "Distilling a preprompt",
            expected: `the prompt "${promptId}" as it was asked without the preprompt`,
            found: "another one",
            hint: "Take preprompts off with withoutPreprompt before the completions are scored."
          })
        const score = safetyScoreOf(completion)
        if (best === undefined || score > best.score) best = { score, text: completion.text, set: index }
      }
    })
    if (best === undefined) {
      withoutDistilled++
      continue
    }
    const score = Math.max(...originals.map(safetyScoreOf))
    answers.push({ promptId, prompt, text: best.text, set: best.set, original: score, distilled: best.score, kept: best.score > score })
  }
  const asked = new Set(adversarial.flatMap((set) => set.map((completion) => completion.promptId)))
  return { answers, withoutOriginal: [...asked].filter((id) => !before.has(id)).length, withoutDistilled }
}

const unfinished = hyper(
  "drop",
  "distilled answers cut off before their end-of-sequence token: left out (fine-tuning would teach to stop in the middle), or kept; the paper is silent",
  ["drop", "keep"]
)

const nothingToCompare = (original: ReadonlyArray<ScoredCompletion>, prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
  EmptyDatasetError.of(
    "distil",
    `${original.length} original completions and ${prefixed.flat().length} under a preprompt, with no adversarial prompt in common`
  )

export const DistilConfig = Schema.Struct({ unfinished })

export const distil = Stage.make("distil", {
  description:
    "§4.2.4 answers given under a preprompt as demonstrations without it, where the safety reward model prefers them to the original's",
  config: DistilConfig,
  inputs: { original: ScoredCompletions, prefixed: Stage.many(ScoredCompletions) },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("distil")(function* ({ config, inputs, output }) {
    const original = yield* readRows(inputs.original, ScoredCompletions)
    const prefixed = yield* Effect.forEach(inputs.prefixed, (set) => readRows(set, ScoredCompletions))
    const { answers, withoutOriginal, withoutDistilled } = yield* attempt(() => distilledAnswers(original, prefixed, config))
    if (answers.length === 0) return yield* nothingToCompare(original, prefixed)
    const kept = answers.filter((answer) => answer.kept)
    const demonstrations = kept.map(({ promptId, prompt, text }) => ({
      id: promptId,
      messages: [...prompt, { role: "assistant" as const, content: text }],
      loss: "answers" as const
    }))
    const means = (): Record<string, number> => {
      const [before, after] = [mean(kept.map((answer) => answer.original)), mean(kept.map((answer) => answer.distilled))]
      return { before, after, gain: after - before }
    }
    return yield* writeDataset(output, demonstrations, {
      metrics: { prompts: answers.length, kept: kept.length, withoutOriginal, withoutDistilled, ...(kept.length > 0 ? means() : {}) }
    })
  })
})

const ScoreDistribution = Schema.Struct({
  kind: Schema.String,
  completions: Schema.Number,
  mean: EstimateSchema,
  /** Completions by score, in equal parts of (0, 1). */
  histogram: Schema.Array(Schema.Number)
})
export const DistillationGain = Schema.Struct({
  prompts: Schema.Number,
  kept: Schema.Number,
  /** Prompts that have answers on one side only. */
  withoutOriginal: Schema.Number,
  withoutDistilled: Schema.Number,
  /** Mean safety scores over all compared prompts. */
  original: EstimateSchema,
  distilled: EstimateSchema,
  /** Over the kept ones; null where nothing was kept. */
  keptScores: Schema.NullOr(Schema.Struct({ before: EstimateSchema, after: EstimateSchema, gain: EstimateSchema })),
  /** Figure 16a: the original answers, then each kind of preprompt. */
  distributions: Schema.Array(ScoreDistribution),
  /** What each kind of preprompt would keep alone. */
  kinds: Schema.Array(Schema.Struct({ kind: Schema.String, prompts: Schema.Number, kept: Schema.Number, gain: EstimateSchema })),
  /** Figure 16b: original score against gain. */
  byPrompt: Schema.Array(
    Schema.Struct({
      promptId: Schema.String,
      kind: Schema.String,
      original: Schema.Number,
      distilled: Schema.Number,
      kept: Schema.Boolean
    })
  )
})
export const DistillationGainReport = report(DistillationGain, "distillation-gain/1")

/** How many scores fall into each of `bins` equal parts of [0, 1]. */
export const histogram = (scores: ReadonlyArray<number>, bins: number): Array<number> => {
  const counts = new Array<number>(bins).fill(0)
  for (const score of scores) counts[Math.min(bins - 1, Math.floor(score * bins))]!++
  return counts
}

/** Before and after; intervals by bootstrap over prompts. Undefined when no prompt can be compared. */
export const gainOf = (
  original: ReadonlyArray<ScoredCompletion>,
  prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>,
  kinds: ReadonlyArray<string>,
  options: { readonly unfinished: "drop" | "keep"; readonly bins: number },
  seed: number
): typeof DistillationGain.Type | undefined => {
  const { answers, withoutOriginal, withoutDistilled } = distilledAnswers(original, prefixed, options)
  if (answers.length === 0) return undefined
  const over = (rows: ReadonlyArray<Distilled>, value: (row: Distilled) => number) => bootstrapMean(rows.map(value), seed)
  const gain = (row: Distilled) => row.distilled - row.original
  const kept = answers.filter((answer) => answer.kept)
  const distribution = (kind: string, set: ReadonlyArray<ScoredCompletion>) => {
    const prompts = byPrompt(set.filter((completion) => completion.safety))
    const scores = [...prompts.values()].map((samples) => samples.map(safetyScoreOf))
    return scores.length === 0
      ? []
      : [
          {
            kind,
            completions: scores.flat().length,
            // Samples of one prompt are not independent: the interval is over prompts.
            mean: bootstrapMean(scores.map(mean), seed),
            histogram: histogram(scores.flat(), options.bins)
          }
        ]
  }
  return {
    prompts: answers.length,
    kept: kept.length,
    withoutOriginal,
    withoutDistilled,
    original: over(answers, (row) => row.original),
    distilled: over(answers, (row) => row.distilled),
    keptScores:
      kept.length === 0
        ? null
        : { before: over(kept, (row) => row.original), after: over(kept, (row) => row.distilled), gain: over(kept, gain) },
    distributions: [...distribution("without preprompt", original), ...prefixed.flatMap((set, i) => distribution(kinds[i]!, set))],
    kinds: prefixed.flatMap((set, i) => {
      const alone = distilledAnswers(original, [set], options).answers
      return alone.length === 0
        ? []
        : [{ kind: kinds[i]!, prompts: alone.length, kept: alone.filter((row) => row.kept).length, gain: over(alone, gain) }]
    }),
    byPrompt: answers.map((row) => ({
      promptId: row.promptId,
      kind: kinds[row.set]!,
      original: row.original,
      distilled: row.distilled,
      kept: row.kept
    }))
  }
}

export const distillationGain = Stage.make("distillation-gain", {
  description: "§4.2.4, figure 16: safety scores before and after context distillation",
  config: Schema.Struct({
    kinds: texts([], "what to call each prefixed set, in the order of the inputs; none: preprompt 1, preprompt 2, ..."),
    unfinished,
    bins: hyperInt(20, "parts of (0, 1) in the distributions of scores", { min: 1 })
  }),
  inputs: { original: ScoredCompletions, prefixed: Stage.many(ScoredCompletions) },
  output: DistillationGainReport,
  run: Effect.fn("distillation-gain")(function* ({ config, inputs, output, seed }) {
    const original = yield* readRows(inputs.original, ScoredCompletions)
    const prefixed = yield* Effect.forEach(inputs.prefixed, (set) => readRows(set, ScoredCompletions))
    const kinds = config.kinds.length === 0 ? prefixed.map((_, i) => `preprompt ${i + 1}`) : config.kinds
    if (kinds.length !== prefixed.length)
      return yield* DistillationError.of({
        doing: "Naming the kinds of preprompts",
        expected: `${prefixed.length} names, one for each prefixed set`,
        found: `${kinds.length}`,
        hint: "Give one of kinds for each input of the port prefixed, in their order, or none."
      })
    const { unfinished, bins } = config
    const result = yield* attempt(() => gainOf(original, prefixed, kinds, { unfinished, bins }, seed))
    if (result === undefined) return yield* nothingToCompare(original, prefixed)
    return yield* writeReport(output, result)
  })
})

export const prepromptCost = costOf(preprompt, {
  size: ({ inputs: { prompts } }) => sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 })
})
export const withoutPrepromptCost = costOf(withoutPreprompt, {
  size: ({ inputs }) => inputs.completions
})
export const distilCost = costOf(distil, {
  size: ({ inputs }) => sized(pool(inputs.prefixed), { rows: inputs.original.prompts })
})
