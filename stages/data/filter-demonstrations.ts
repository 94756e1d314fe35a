/** Quality rules for public instruction data (Llama 2 §3.1: "many of these have insufficient diversity and quality"); each rule counts what it drops. */
import { hash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { countRows, deriveDataset, writeReordered } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { fitsChatFormat } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"

export const FilterConfig = Schema.Struct({
  minCharacters: hyperInt(1, "minimum length of the last answer, in characters", { min: 0 }),
  maxCharacters: hyperInt(8000, "maximum length of the last answer, in characters", { min: 1 }),
  maxTurns: hyperInt(20, "maximum number of user messages in a dialogue", { min: 1 }),
  minLetters: hyper(0.5, "minimum share of letters and digits among the last answer's characters other than white space", {
    min: 0,
    max: 1
  }),
  maxRepeated: hyper(0.3, "maximum share of the last answer's lines that repeat an earlier line", { min: 0, max: 1 })
})

const lastAnswer = ({ messages }: Demonstration): string => messages.at(-1)?.content ?? ""
const normal = (text: string): string => text.toLowerCase().replaceAll(/\s+/g, " ").trim()

/** Share of letters and digits, of any script, among the characters other than white space; 1 if there are none. */
export const letterShare = (text: string): number => {
  const characters = Array.from(text.replaceAll(/\s/g, ""))
  return characters.length === 0 ? 1 : characters.filter((character) => /[\p{L}\p{N}]/u.test(character)).length / characters.length
}

/** Share of lines that repeat an earlier line; empty lines are ignored. */
export const repeatedShare = (text: string): number => {
  const lines = text
    .split("\n")
    .map(normal)
    .filter((line) => line !== "")
  return lines.length === 0 ? 0 : 1 - new Set(lines).size / lines.length
}

type Rule = "format" | "short" | "long" | "turns" | "letters" | "repeated" | "duplicate"

/** The first rule that a dialogue breaks, if any. */
export const brokenRule = (row: Demonstration, config: typeof FilterConfig.Type): Exclude<Rule, "duplicate"> | undefined => {
  const answer = lastAnswer(row)
  if (row.messages.at(-1)?.role !== "assistant" || !fitsChatFormat(row.messages)) return "format"
  if (answer.length < config.minCharacters) return "short"
  if (answer.length > config.maxCharacters) return "long"
  if (row.messages.filter(({ role }) => role === "user").length > config.maxTurns) return "turns"
  if (letterShare(answer) < config.minLetters) return "letters"
  if (repeatedShare(answer) > config.maxRepeated) return "repeated"
  return undefined
}

export const filterDemonstrations = Stage.make("filter-demonstrations", {
  description: "§3.1 public instruction data without malformed, repetitive and duplicate dialogues",
  config: FilterConfig,
  inputs: { demonstrations: Demonstrations },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("filter-demonstrations")(function* ({ config, inputs, output }) {
    const dropped: Record<Rule, number> = { format: 0, short: 0, long: 0, turns: 0, letters: 0, repeated: 0, duplicate: 0 }
    // Digests, because the texts would use as much memory as the dataset.
    const seen = new Set<string>()
    const filter = (row: Demonstration): ReadonlyArray<Demonstration> => {
      const text = JSON.stringify(row.messages.map(({ role, content }) => [role, normal(content)]))
      const digest = hash("sha256", text, "base64")
      const broken = brokenRule(row, config) ?? (seen.has(digest) ? "duplicate" : undefined)
      if (broken !== undefined) {
        dropped[broken]++
        return []
      }
      seen.add(digest)
      return [row]
    }
    return yield* deriveDataset({ ref: inputs.demonstrations, type: Demonstrations }, output, filter, () => ({
      kept: seen.size,
      ...dropped
    }))
  })
})

export const demonstrationSubset = Stage.make("demonstration-subset", {
  description: "§3.1 the first demonstrations in a seeded order, so that a larger subset contains every smaller one",
  config: Schema.Struct({ count: hyperInt(1000, "number of demonstrations; all if there are fewer", { min: 1 }) }),
  inputs: { demonstrations: Demonstrations },
  output: Demonstrations,
  run: Effect.fn("demonstration-subset")(function* ({ config, inputs, output, seed }) {
    const order = new Random(seed, "subset").permutation(yield* countRows(inputs.demonstrations, Demonstrations))
    return yield* writeReordered(
      { refs: [inputs.demonstrations], type: Demonstrations },
      output,
      Array.from(order.subarray(0, config.count))
    )
  })
})

export const filterDemonstrationsCost = costOf(filterDemonstrations, {
  size: ({ inputs }) => inputs.demonstrations
})
export const demonstrationSubsetCost = costOf(demonstrationSubset, {
  size: ({ config, inputs }) => sized(inputs.demonstrations, { rows: Math.min(config.count, inputs.demonstrations.rows) })
})
