/**
 * Preprompts for safety context distillation (Llama 2 §4.2.4, table 39). One is put before each adversarial prompt to sample answers, and removed again
 * before the answers are scored and used for training.
 *
 *     preprompt -> sample -> withoutPreprompt -> score -> distil        (in parallel: sample -> score of the same prompts without it)
 *
 * The paper gives neither the position of the preprompt nor the full wording of its templates, so both are hyperparameters.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { fitsChatFormat } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Completion, Completions, type Message, type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { sameMessages } from "../common/pairing.ts"
import { attempt, DistillationError } from "./distillation-error.ts"

const texts = (value: ReadonlyArray<string>, description: string) =>
  Schema.Array(Schema.String)
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))
    .annotate({ description })

const placeholder = "{adjective}"

/** Generic preprompts in the style of table 39; each placeholder is replaced with a different adjective. */
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

const PrepromptConfig = Schema.Struct({
  kind: hyper(
    "generic",
    "which preprompt to use; §4.2.4: one of the generic templates, or the answer template of the prompt's risk category",
    ["generic", "category"]
  ),
  place: hyper(
    "system",
    "position of the preprompt: system, at the start of the system message; user, before the last question. Unlike the first question, neither is removed from a long dialogue",
    ["system", "user"]
  ),
  templates: texts(
    genericTemplates,
    `templates of generic preprompts, one drawn per prompt; ${placeholder} is replaced with an adjective (table 39)`
  ),
  adjectives: texts(safeAdjectives, "adjectives associated with safe behaviour (§4.2.4), drawn without repetition within a preprompt"),
  categoryTemplates: Schema.Record(Schema.String, Schema.String)
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(categoryTemplates)))
    .annotate({ description: "answer template per risk category of a prompt (§4.2, §4.2.4: illicit, hateful, advice)" }),
  otherCategories: hyper(
    "generic",
    "what to do with prompts whose category is unknown or has no template: use a generic preprompt, or drop them",
    ["generic", "drop"]
  )
})
type PrepromptOptions = typeof PrepromptConfig.Type

/** The preprompt of a prompt: its category's, or a generic one drawn from the seed and the prompt's id; undefined if the prompt is dropped. */
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

/** The prompt with the preprompt inserted. */
export const withPreprompt = (messages: ReadonlyArray<Message>, preprompt: string, place: "system" | "user"): ReadonlyArray<Message> => {
  const last = messages.length - 1
  if (place === "user") return messages.with(last, { ...messages[last]!, content: join(preprompt, messages[last]!.content) })
  return messages[0]?.role === "system"
    ? messages.with(0, { role: "system", content: join(preprompt, messages[0].content) })
    : [{ role: "system", content: preprompt }, ...messages]
}

const sameMessage = (a: Message | undefined, b: Message | undefined): boolean => a?.role === b?.role && a?.content === b?.content

/** The text that `withPreprompt` inserted into the original prompt; undefined if the prefixed prompt does not derive from the original. */
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

/** Throws DistillationError if preprompts cannot be built from these hyperparameters. */
const checkTemplates = (options: PrepromptOptions): void => {
  const refuse = (expected: string, found: string, hint: string) => {
    throw DistillationError.of({ doing: "Writing safety preprompts", expected, found, hint })
  }
  if (options.kind === "category" && Object.keys(options.categoryTemplates).length === 0)
    refuse("a template for at least one risk category", "none", 'Fill categoryTemplates, or use the kind "generic".')
  if (options.kind === "generic" || options.otherCategories === "generic") {
    if (options.templates.length === 0) refuse("generic templates", "none", "Fill templates.")
    const wanted = Math.max(...options.templates.map((template) => template.split(placeholder).length - 1))
    const distinct = new Set(options.adjectives).size
    if (distinct < wanted)
      refuse(`${wanted} different adjectives for a template`, `${distinct}`, "Add adjectives, or shorten the template.")
  }
  for (const text of [...options.templates, ...options.adjectives, ...Object.values(options.categoryTemplates)]) {
    if (text.trim() === "") refuse("non-empty templates and adjectives", "an empty one", "Remove it.")
    if (!fitsChatFormat([{ role: "user", content: text }]))
      refuse("texts without tags of the chat format", JSON.stringify(text), "Remove the tag.")
  }
}

export const preprompt = Stage.make("preprompt", {
  description: "§4.2.4 puts a safety preprompt before adversarial prompts; others are left out",
  config: PrepromptConfig,
  inputs: { prompts: Prompts },
  output: Prompts,
  run: Effect.fn("preprompt")(function* ({ config, inputs, output, seed }) {
    yield* attempt(() => checkTemplates(config))
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const adversarial = prompts.filter((prompt) => prompt.safety)
    const rows = adversarial.flatMap((prompt) => {
      const text = prepromptFor(prompt, config, seed)
      // The user's later messages are not part of the distilled exchange.
      return text === undefined ? [] : [{ ...prompt, messages: withPreprompt(prompt.messages, text, config.place), followUps: [] }]
    })
    if (adversarial.length > 0 && rows.length === 0)
      return yield* DistillationError.of({
        doing: "Writing safety preprompts",
        expected: `prompts with a category that has a template (${Object.keys(config.categoryTemplates).join(", ")})`,
        found: `none among ${adversarial.length} adversarial prompts`,
        hint: 'Add categories to the prompts, add their templates to categoryTemplates, or set otherCategories to "generic".'
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
 * Replaces the prompts of completions with the original ones, and counts the completions left out because they repeat the preprompt's words. Throws
 * DistillationError for a completion whose prompt is not one of the originals with a preprompt.
 */
export const restorePrompts = (
  completions: ReadonlyArray<Completion>,
  prompts: ReadonlyArray<Prompt>
): { readonly rows: Array<Completion>; readonly echoed: number } => {
  const doing = "Removing preprompts from completions"
  const originals = new Map<string, Prompt>()
  for (const prompt of prompts) {
    const other = originals.get(prompt.id)
    if (other !== undefined && !sameMessages(other.messages, prompt.messages))
      throw DistillationError.of({
        doing,
        expected: "one prompt per id",
        found: `two different prompts for "${prompt.id}"`,
        hint: "Give prompts distinct ids before they are mixed."
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
        expected: `the prompt "${completion.promptId}" from before the preprompt`,
        found: original === undefined ? "no prompt with that id" : "a prompt that differs by more than a preprompt, or not at all",
        hint: "Connect the input prompts of the preprompt stage, and the completions of its output prompts."
      })
    if (completion.text.includes(text)) echoed++
    else rows.push({ ...completion, prompt: original.messages, safety: original.safety })
  }
  return { rows, echoed }
}

export const withoutPreprompt = Stage.make("without-preprompt", {
  description: "§4.2.4 removes the preprompts from the prompts of completions; completions that repeat its words are left out",
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

export const prepromptCost = costOf(preprompt, {
  size: ({ inputs: { prompts } }) => sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 })
})
export const withoutPrepromptCost = costOf(withoutPreprompt, {
  size: ({ inputs }) => inputs.completions
})
