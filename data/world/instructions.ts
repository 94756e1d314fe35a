/** Instructions of the small world that apply to a complete dialogue, which Ghost Attention should make models keep (§3.3). */

/** An instruction for every answer of a dialogue (§3.3), in a long and a short form, and the sentence that an answer must contain to keep it. */
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

/** The instructions in a text, in either form. */
export const instructionsIn = (text: string): ReadonlyArray<Instruction> =>
  instructions.filter(({ full, short }) => text.includes(full) || text.includes(short))

/** The text without its instructions: the question. */
export const withoutInstructions = (text: string): string =>
  instructions
    .reduce((rest, { full, short }) => rest.replace(full, "").replace(short, ""), text)
    .replaceAll(/\s+/g, " ")
    .trim()

/** Makes an answer keep the instructions: puts names and starts before it, ends after it. */
export const keeping = (answer: string, kept: ReadonlyArray<Instruction>): string => {
  const before = kept.filter(({ kind }) => kind !== "end").map(({ sentence }) => sentence)
  const after = kept.filter(({ kind }) => kind === "end").map(({ sentence }) => sentence)
  return [...before, answer, ...after].join(" ")
}
