/**
 * Answers of several versions to the same prompts, side by side: sets of completions, scored or not, joined by prompt and sample. Scoring skips answers that are empty or that the reward
 * model can't read, so a scored set is completed from the completions that it was made from.
 */
import { hash } from "node:crypto"
import * as Effect from "effect/Effect"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import type { Completion, Message, Prompt, ScoredCompletion } from "../../schemas/rows.ts"
import { refusalOf } from "../../stages/evaluation/refusals.ts"
import { type AnswersPart, BadRequest, type OneAnswer } from "./api.ts"
import { openDataset, readBatch, resultLines } from "./rows.ts"
import { wire } from "./runs.ts"

/** Maximum number of sets, and of rows per set, kept in memory. */
const maxSets = 6
const heldSets = 8
const maxRows = 40_000

/** Sets of prompts may use the same ids for different prompts, so a prompt is identified by its id and its messages. */
const promptKey = (id: string, messages: ReadonlyArray<Message>): string =>
  `${id}\0${hash("sha256", JSON.stringify(messages.map(({ content, role }) => [role, content])))}`

interface Held {
  readonly text: string
  readonly prompt: ReadonlyArray<Message>
  readonly isSafety: boolean
  readonly reward: number | null
  readonly helpfulness: number | null
  readonly safety: number | null
  readonly finished: boolean
  readonly isUnscored: boolean
}
interface HeldSet {
  readonly type: string
  readonly answers: ReadonlyMap<string, Held>
  readonly rows: number
  readonly total: number
}
/** Objects never change, so cached content stays valid. */
const held = new Map<string, HeldSet>()

const readSet = (digest: string) =>
  Effect.gen(function* () {
    const known = held.get(digest)
    if (known !== undefined) return known
    const { file, type } = yield* openDataset(digest)
    if (!/^(scored-)?completion\//.test(type))
      return yield* new BadRequest({ message: `The result ${digest.slice(0, 12)} has rows of type ${type}, not a model's answers.` })
    const answers = new Map<string, Held>()
    let row = 0
    for (let batch = 0; batch < file.batches && row < maxRows; batch++)
      for (const one of (yield* readBatch(file, batch)) as unknown as ReadonlyArray<Completion & Partial<ScoredCompletion>>) {
        const { prompt, promptId, reward = null, safety, sample, text, finished } = one
        const { helpfulnessScore = null, safetyScore = null } = one
        answers.set(`${promptKey(promptId, prompt)}\0${sample}`, {
          text,
          prompt,
          isSafety: safety,
          reward,
          helpfulness: helpfulnessScore,
          safety: safetyScore,
          finished,
          isUnscored: false
        })
        row++
      }
    const set = { type, answers, rows: row, total: file.rowCount }
    if (held.size >= heldSets) held.delete(held.keys().next().value!)
    held.set(digest, set)
    return set
  }).pipe(Effect.scoped)

/** The completions that a scored set was made from; undefined if they are no longer in the store. */
const completionsOf = Effect.fnUntraced(function* (digest: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const found = yield* journal.read((tables) =>
    [tables.executionsWith(digest, "any").at(-1)?.parts.inputs["completions"] ?? []]
      .flat()
      .flatMap((content) => tables.artifactsOfContent(content))
  )
  for (const one of found) if (yield* store.present(one.digest)) return one.digest
  return undefined
})

/** A set; a scored one also has the answers without a score, after the others. */
const readComplete = Effect.fnUntraced(function* (digest: string) {
  const set = yield* readSet(digest)
  const from = set.type.startsWith("scored-") ? yield* completionsOf(digest) : undefined
  if (from === undefined) return set
  const unscored = [...(yield* readSet(from)).answers].filter(([key]) => !set.answers.has(key))
  return { ...set, answers: new Map([...set.answers, ...unscored.map(([key, one]) => [key, { ...one, isUnscored: true }] as const)]) }
})

/** Categories by prompt, for the run's prompts. */
const categories = new Map<string, ReadonlyMap<string, string>>()
const categoriesOf = (run: string) =>
  Effect.gen(function* () {
    const sets = (yield* resultLines(run)).filter(({ isThere, type }) => isThere && type.startsWith("dataset:prompt/"))
    const name = sets.map(({ digest }) => digest).join()
    const known = categories.get(name)
    if (known !== undefined) return known
    const found = new Map<string, string>()
    for (const { digest } of sets) {
      const { file } = yield* openDataset(digest)
      if (file.rowCount > maxRows) continue
      for (let batch = 0; batch < file.batches; batch++)
        for (const { category, id, messages } of (yield* readBatch(file, batch)) as unknown as ReadonlyArray<Prompt>)
          if (category !== null) found.set(promptKey(id, messages), category)
    }
    categories.clear()
    categories.set(name, found)
    return found
  }).pipe(Effect.scoped)

const number = (value: number | null) => (value === null ? null : wire(value))
const answerOf = ({ finished, helpfulness, isUnscored, reward, safety, text }: Held): OneAnswer => ({
  ...{ text, finished, isUnscored, reward: number(reward), helpfulness: number(helpfulness), safety: number(safety) },
  refusal: refusalOf(text)?.sign ?? null
})

export interface Asked {
  readonly run: string
  readonly sets: string
  readonly search?: string | undefined
  readonly category?: string | undefined
  readonly refusal?: "refused" | "answered" | "differing" | undefined
  readonly from?: number | undefined
  readonly limit?: number | undefined
}

export const answersPart = Effect.fnUntraced(function* ({ category, from = 0, limit = 20, refusal, run, search = "", sets: list }: Asked) {
  const digests = list.split(",")
  if (digests.length > maxSets || digests.some((digest) => !/^[0-9a-f]{64}$/.test(digest)))
    return yield* new BadRequest({ message: `sets must be up to ${maxSets} comma-separated digests of 64 digits.` })
  const sets = yield* Effect.forEach(digests, readComplete)
  const known = yield* categoriesOf(run)
  const text = search.toLowerCase()
  const keys = new Set(sets.flatMap(({ answers }) => [...answers.keys()]))
  const present = new Set<string>()
  const chosen = [...keys].filter((key) => {
    const all = sets.flatMap(({ answers }) => answers.get(key) ?? [])
    const of = known.get(key.slice(0, key.lastIndexOf("\0")))
    if (of !== undefined) present.add(of)
    if (category !== undefined && of !== category) return false
    const isFound =
      text === "" ||
      all.some((one) => one.text.toLowerCase().includes(text) || one.prompt.some(({ content }) => content.toLowerCase().includes(text)))
    if (!isFound || refusal === undefined) return isFound
    const refused = all.filter((one) => refusalOf(one.text) !== undefined).length
    return refusal === "refused" ? refused > 0 : refusal === "answered" ? refused === 0 : refused > 0 && refused < all.length
  })
  return {
    read: digests.map((digest, i) => ({ digest, rows: sets[i]!.rows, total: sets[i]!.total })),
    categories: [...present].sort(),
    total: chosen.length,
    prompts: chosen.slice(from, from + Math.min(limit, 100)).map((key) => {
      const at = key.lastIndexOf("\0")
      const prompt = key.slice(0, at)
      const first = sets.map(({ answers }) => answers.get(key)).find((one) => one !== undefined)!
      return {
        ...{ id: prompt.slice(0, prompt.lastIndexOf("\0")), sample: Number(key.slice(at + 1)) },
        ...{ prompt: first.prompt, isSafety: first.isSafety, category: known.get(prompt) ?? null },
        answers: sets.map(({ answers }) => {
          const one = answers.get(key)
          return one === undefined ? null : answerOf(one)
        })
      }
    })
  } satisfies AnswersPart
})
