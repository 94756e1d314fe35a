/** How the people of the small world talk: manners, refusals, and instructions that hold for a whole dialogue. */
import type { Draw } from "./words.ts"

export const openings = ["Gladly!", "Of course!", "Good question!"]
export const closings = ["Ask me more!", "I hope it helps!"]
export const surly = ["Go away.", "Why ask me?", "Look it up.", "I am tired."]
export const offSubject = ["My socks are wet.", "It rained all night.", "The clock is loud."]
export const refusals = ["Sorry, I can not help with that.", "I will not do that.", "No, I can not do that."]

/** An instruction for every answer of a dialogue (§3.3), in full and in short, and the sentence by which an answer keeps it. */
export interface Instruction {
  readonly kind: "start" | "end" | "name"
  readonly full: string
  readonly short: string
  readonly sentence: string
}

const starts = ["Ahoy", "Yo", "Hey", "Oho"]
const ends = ["Over", "Cheers", "Amen", "Bye"]
const titles = ["Captain", "Doctor", "King", "Boss"]

export const instructions: ReadonlyArray<Instruction> = [
  ...starts.map((word) => ({
    kind: "start" as const,
    full: `Start each answer with ${word}.`,
    short: `Start: ${word}.`,
    sentence: `${word}!`
  })),
  ...ends.map((word) => ({ kind: "end" as const, full: `End each answer with ${word}.`, short: `End: ${word}.`, sentence: `${word}!` })),
  ...titles.map((word) => ({
    kind: "name" as const,
    full: `From now on call me ${word}.`,
    short: `Name: ${word}.`,
    sentence: `Yes, ${word}!`
  }))
]

/** The instructions in a text, whether in full or in short. */
export const instructionsIn = (text: string): ReadonlyArray<Instruction> =>
  instructions.filter(({ full, short }) => text.includes(full) || text.includes(short))

/** The text without its instructions: the question. */
export const withoutInstructions = (text: string): string =>
  instructions
    .reduce((rest, { full, short }) => rest.replace(full, "").replace(short, ""), text)
    .replaceAll(/\s+/g, " ")
    .trim()

/** An answer that keeps the instructions: names and starts go before it, ends after. */
export const keeping = (answer: string, kept: ReadonlyArray<Instruction>): string => {
  const before = kept.filter(({ kind }) => kind !== "end").map(({ sentence }) => sentence)
  const after = kept.filter(({ kind }) => kind === "end").map(({ sentence }) => sentence)
  return [...before, answer, ...after].join(" ")
}

export const sentencesOf = (text: string): ReadonlyArray<string> => text.trim().split(/(?<=[.!?])\s+/)

/** What share of answers is how: the people who write the demonstrations differ in care. */
export interface Quality {
  /** Right, of the answers that try. */
  readonly right: number
  readonly kind: number
  readonly surly: number
  /** Does what should be refused. */
  readonly comply: number
  /** Refuses what should be answered. */
  readonly overRefuse: number
  readonly offSubject: number
  /** Of the proposals that go with a refusal, those that fit another question. */
  readonly misplaced: number
}

/** Text to pretrain on: what people say is mostly right, whatever their manners. */
export const pretrainingQuality: Quality = {
  right: 0.95,
  kind: 0.25,
  surly: 0.25,
  comply: 0.55,
  overRefuse: 0.06,
  offSubject: 0.06,
  misplaced: 0.2
}
/** Public instruction data (§3.1: "many of these have insufficient diversity and quality"). */
export const publicQuality: Quality = {
  right: 0.7,
  kind: 0.25,
  surly: 0.3,
  comply: 0.55,
  overRefuse: 0.1,
  offSubject: 0.1,
  misplaced: 0.25
}
/** Annotated demonstrations: better, and still varied. */
export const annotatedQuality: Quality = {
  right: 0.75,
  kind: 0.35,
  surly: 0.15,
  comply: 0.4,
  overRefuse: 0.05,
  offSubject: 0.04,
  misplaced: 0.2
}
/** Answers under a preprompt that asks for safety. */
export const safeQuality: Quality = { ...annotatedQuality, comply: 0.04, overRefuse: 0.15, misplaced: 0.1 }

/** One sentence dressed with manners. */
export const dressed = (draw: Draw, sentence: string, { kind, surly: rude }: Quality): string => {
  const mood = draw.next()
  if (mood < kind) return draw.next() < 0.6 ? `${draw.pick(openings)} ${sentence}` : `${sentence} ${draw.pick(closings)}`
  if (mood < kind + rude) return draw.next() < 0.5 ? `${draw.pick(surly)} ${sentence}` : `${sentence} ${draw.pick(surly)}`
  return sentence
}
