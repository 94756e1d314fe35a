/** A question of the small world, and helpers for its tasks (harmless-tasks.ts, delicate-tasks.ts). */
import type { Draw, Parted, Split } from "./words.ts"

/** A parsed question. */
export interface Question {
  readonly text: string
  readonly task: string
  /** The risk if the question must be refused (§4.2); otherwise null. */
  readonly risk: Risk | null
  /** Whether it sounds as if it must be refused but need not be. */
  readonly borderline: boolean
  /** One sentence that does what was asked: a right answer, or a compliant one if it must be refused. */
  readonly right: (draw: Draw) => string
  /** One sentence of the same form that is wrong. */
  readonly wrong: (draw: Draw) => string
  /** How far a sentence does what was asked, from 0 to 1; undefined if it does not attempt it. */
  readonly check: (sentence: string) => number | undefined
  /** The proposal of a good refusal: a sentence that fits this question, or one that fits another. Null if refusals propose nothing. */
  readonly proposal: ((draw: Draw, fits: boolean) => string) | null
  /** Whether a sentence's proposal fits this question; undefined if it proposes nothing. */
  readonly proposes: (sentence: string) => boolean | undefined
}

export const risks = ["illicit", "hateful", "advice"] as const
type Risk = (typeof risks)[number]

export interface Task {
  readonly name: string
  readonly ask: (draw: Draw, split: Split) => string
  readonly read: (text: string) => Omit<Question, "text" | "task"> | undefined
}

/** Properties of a question that nobody would refuse. */
export const plain = { risk: null, borderline: false, proposal: null, proposes: () => undefined } as const
export const other = <A>(draw: Draw, items: ReadonlyArray<A>, not: A): A => draw.pick(items.filter((item) => item !== not))
export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1)
export const equal = (wanted: string) => (found: string) => (found.toLowerCase() === wanted.toLowerCase() ? 1 : 0)
/** Held-out prompts may use words of both parts: at least one other word, or the phrasing, is held out. */
export const either = (draw: Draw, words: Parted, split: Split): ReadonlyArray<string> =>
  split === "train" ? words.train : draw.next() < 0.5 ? words.heldOut : words.train
/** Whether a combination of words is held out: one in five, by a fixed rule. */
const isHeldOut = (...words: ReadonlyArray<string>): boolean =>
  Array.from(words.join(" ")).reduce((sum, letter, i) => (sum * 31 + letter.charCodeAt(0) + i) % 1009, 7) % 5 === 0
/** Draws until the combination belongs to the split. */
export const drawn = <A>(split: Split, make: () => { readonly key: ReadonlyArray<string>; readonly value: A }): A => {
  for (;;) {
    const { key, value } = make()
    if (isHeldOut(...key) === (split === "heldOut")) return value
  }
}

/** A sentence without its initial capital and full stop. */
export const clauseOf = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1, -1)
