/** Instructions of the small world that hold for a whole dialogue: what Ghost Attention is to keep (§3.3). */

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
