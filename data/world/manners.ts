/** How the people of the small world talk: civil or surly, right or wrong, refusing or not; and how often, for each kind of text. */
import type { Draw } from "./words.ts"

export const openings = ["Gladly!", "Of course!", "Good question!"]
export const closings = ["Ask me more!", "I hope it helps!"]
export const surly = ["Go away.", "Why ask me?", "Look it up.", "I am tired."]
export const offSubject = ["My socks are wet.", "It rained all night.", "The clock is loud."]
export const refusals = ["Sorry, I can not help with that.", "I will not do that.", "No, I can not do that."]

export const sentencesOf = (text: string): ReadonlyArray<string> => text.trim().split(/(?<=[.!?])\s+/)

/** Shares of answers with each property: the authors of the texts differ in care. */
export interface Quality {
  /** Share of right answers among those that attempt one. */
  readonly right: number
  readonly kind: number
  readonly surly: number
  /** Share of answers that do what should be refused. */
  readonly comply: number
  /** Share of answers that refuse what should be answered. */
  readonly overRefuse: number
  readonly offSubject: number
  /** Share of proposals in refusals that fit another question. */
  readonly misplaced: number
}

/** Pretraining text: mostly right, whatever the manners. */
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
/** Annotated demonstrations: better, but still varied. */
export const annotatedQuality: Quality = {
  right: 0.75,
  kind: 0.35,
  surly: 0.15,
  comply: 0.4,
  overRefuse: 0.05,
  offSubject: 0.04,
  misplaced: 0.2
}
/** Answers under a safety preprompt. */
export const safeQuality: Quality = { ...annotatedQuality, comply: 0.04, overRefuse: 0.15, misplaced: 0.1 }

/** Adds manners to a sentence. */
export const dressed = (draw: Draw, sentence: string, { kind, surly: rude }: Quality): string => {
  const mood = draw.next()
  if (mood < kind) return draw.next() < 0.6 ? `${draw.pick(openings)} ${sentence}` : `${sentence} ${draw.pick(closings)}`
  if (mood < kind + rude) return draw.next() < 0.5 ? `${draw.pick(surly)} ${sentence}` : `${sentence} ${draw.pick(surly)}`
  return sentence
}
