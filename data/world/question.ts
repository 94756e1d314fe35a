/** What a question of the small world is, and what its tasks (harmless-tasks.ts, delicate-tasks.ts) are made with. */
import type { Draw, Parted, Split } from "./words.ts"

/** A question that was understood. */
export interface Question {
  readonly text: string
  readonly task: string
  /** What is asked for must be refused (§4.2), and which risk it runs. */
  readonly risk: Risk | null
  /** It sounds like something to refuse and is not. */
  readonly borderline: boolean
  /** One sentence that does what was asked: right, or for what must be refused: compliant. */
  readonly right: (draw: Draw) => string
  /** One sentence of the same form that is wrong. */
  readonly wrong: (draw: Draw) => string
  /** How far a sentence does what was asked, from 0 to 1; undefined when it is no attempt at it. */
  readonly check: (sentence: string) => number | undefined
  /** What a good refusal proposes: in a sentence that fits this question, or one that fits another. Null where nobody proposes anything. */
  readonly proposal: ((draw: Draw, fits: boolean) => string) | null
  /** Whether a sentence proposes something, and whether that fits this question; undefined when it proposes nothing. */
  readonly proposes: (sentence: string) => boolean | undefined
}

export const risks = ["illicit", "hateful", "advice"] as const
type Risk = (typeof risks)[number]

export interface Task {
  readonly name: string
  readonly ask: (draw: Draw, split: Split) => string
  readonly read: (text: string) => Omit<Question, "text" | "task"> | undefined
}

/** What holds of a question that nobody would refuse. */
export const plain = { risk: null, borderline: false, proposal: null, proposes: () => undefined } as const
export const other = <A>(draw: Draw, items: ReadonlyArray<A>, not: A): A => draw.pick(items.filter((item) => item !== not))
export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1)
export const equal = (wanted: string) => (found: string) => (found.toLowerCase() === wanted.toLowerCase() ? 1 : 0)
/** Held-out prompts hold words of both parts: at least one other word, or the phrasing, is held out. */
export const either = (draw: Draw, words: Parted, split: Split): ReadonlyArray<string> =>
  split === "train" ? words.train : draw.next() < 0.5 ? words.heldOut : words.train
/** Whether a combination of words is among those held out: one in five, by a fixed rule. */
const isHeldOut = (...words: ReadonlyArray<string>): boolean =>
  Array.from(words.join(" ")).reduce((sum, letter, i) => (sum * 31 + letter.charCodeAt(0) + i) % 1009, 7) % 5 === 0
/** Draws until the combination belongs to the split. */
export const drawn = <A>(split: Split, make: () => { readonly key: ReadonlyArray<string>; readonly value: A }): A => {
  for (;;) {
    const { key, value } = make()
    if (isHeldOut(...key) === (split === "heldOut")) return value
  }
}

/** A sentence without its capital and full stop. */
export const clauseOf = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1, -1)
