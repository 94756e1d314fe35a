/** How the people of the small world talk: civil or surly, right or wrong, refusing or not; and how often, by who writes. */
import type { Draw } from "./words.ts"

export const openings = ["Gladly!", "Of course!", "Good question!"]
export const closings = ["Ask me more!", "I hope it helps!"]
export const surly = ["Go away.", "Why ask me?", "Look it up.", "I am tired."]
export const offSubject = ["My socks are wet.", "It rained all night.", "The clock is loud."]
export const refusals = ["Sorry, I can not help with that.", "I will not do that.", "No, I can not do that."]

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
