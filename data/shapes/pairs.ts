/** Parsers for the common formats of preference pairs: HH-RLHF's transcripts; prompt, chosen and rejected; chosen and rejected only. Each returns a row, or throws BadRow or BadLabel. */
import type { Message, Preference } from "../../schemas/rows.ts"
import { BadRow, inField } from "../read/record.ts"
import { asked, checkAnswers, field, label, preference, text, wellFormed } from "./fields.ts"
import { messagesOf, promptOf, sameTurn } from "./messages.ts"

// ---- HH-RLHF ---------------------------------------------------------------------------------------------------------------------------

const turnStart = /\n\n(Human|Assistant):/g

/** The turns of an HH-RLHF transcript ("\n\nHuman: ...\n\nAssistant: ..."), with unchanged texts. */
export const splitTranscript = (transcript: string, name: string): Array<Message> => {
  const starts = [...transcript.matchAll(turnStart)]
  if (starts.length === 0 || starts[0]!.index !== 0)
    throw new BadRow(name, 'expected a transcript that begins with "\\n\\nHuman:" or "\\n\\nAssistant:"')
  return starts.map((start, i) => ({
    role: start[1] === "Human" ? "user" : "assistant",
    content: transcript.slice(start.index + start[0].length, starts[i + 1]?.index ?? transcript.length)
  }))
}

/**
 * A pair from two dialogues: the prompt is the longest common prefix of complete turns, and each response is the single assistant turn that follows. Dialogues that
 * differ before the last turn, or have an empty response, are invalid: such a pair does not compare two answers
 * to one prompt.
 */
const partedTurns = (chosen: ReadonlyArray<Message>, rejected: ReadonlyArray<Message>, line: number, source: string): Preference => {
  let shared = 0
  while (sameTurn(chosen[shared], rejected[shared])) shared++
  // Two equal dialogues have the same answer, so there is nothing to compare.
  if (shared === chosen.length && shared === rejected.length) throw new BadRow("rejected", "the same as chosen")
  for (const [name, turns] of [
    ["chosen", chosen],
    ["rejected", rejected]
  ] as const) {
    if (turns.length !== shared + 1)
      throw new BadRow(
        name,
        `the transcripts differ from turn ${shared + 1} on, but this one continues to turn ${turns.length}`,
        inField(name, "more than one turn differs between the transcripts")
      )
    if (turns[shared]!.role !== "assistant")
      throw new BadRow(
        name,
        `turn ${shared + 1}, the first that differs, is not the assistant's`,
        inField(name, "the first differing turn is not the assistant's")
      )
    if (turns[shared]!.content.trim() === "") throw new BadRow(name, "the response is empty")
  }
  if (shared === 0) throw new BadRow("chosen", "there is no prompt")
  return preference(`${line}`, chosen.slice(0, shared), chosen[shared]!.content, rejected[shared]!.content, source)
}

/** An HH-RLHF row {chosen, rejected}: two transcripts. */
export const parseHhRlhf = (value: unknown, line: number, source: string): Preference =>
  partedTurns(splitTranscript(text(value, "chosen"), "chosen"), splitTranscript(text(value, "rejected"), "rejected"), line, source)

// ---- prompt, chosen, rejected ----------------------------------------------------------------------------------------------------------

/** The answer in a field: text, or messages that are the answer alone or the complete dialogue ending with it. */
const answerOf = (value: unknown, name: string, prompt: ReadonlyArray<Message>): string => {
  const found = field(value, name)
  const messages: ReadonlyArray<Message> =
    typeof found === "string" ? [{ role: "assistant", content: wellFormed(found, name) }] : messagesOf(found, name, "text")
  const last = messages.at(-1)!
  if (last.role !== "assistant") throw new BadRow(name, "the last message is not the assistant's")
  const before = messages.slice(0, -1)
  if (before.length > 0 && !(before.length === prompt.length && before.every((turn, i) => sameTurn(turn, prompt[i])))) {
    throw new BadRow(name, "the messages before the answer are not the prompt")
  }
  if (last.content.trim() === "") throw new BadRow(name, "the response is empty")
  return last.content
}

/** The rating and the responses' safety labels; null if absent. Throws BadLabel for any other value. */
const labelsOf = (value: unknown, line: number): Pick<Preference, "rating" | "chosenSafe" | "rejectedSafe"> => ({
  rating: label(
    value,
    "rating",
    [0, 1, 2, 3],
    line,
    "0 (significantly better), 1 (better), 2 (slightly better), 3 (negligibly better or unsure) or null"
  ),
  chosenSafe: label(value, "chosenSafe", [true, false], line, "true, false or null"),
  rejectedSafe: label(value, "rejectedSafe", [true, false], line, "true, false or null")
})

/**
 * A row {prompt, chosen, rejected, rating?, chosenSafe?, rejectedSafe?}: the prompt is text or messages, the responses are text or messages (with or
 * without the prompt's messages before them). Two equal responses are invalid: there is nothing to compare. Labels are read first, so that a bad label
 * is reported even if the rest of the row is invalid.
 */
export const parsePromptChosenRejected = (value: unknown, line: number, source: string): Preference => {
  const labels = labelsOf(value, line)
  const prompt = promptOf(field(value, "prompt"), "prompt")
  const chosen = answerOf(value, "chosen", prompt)
  const rejected = answerOf(value, "rejected", prompt)
  if (chosen === rejected) throw new BadRow("rejected", "the same as chosen")
  return preference(`${line}`, prompt, chosen, rejected, source, labels)
}

/** Length of the common prefix of two texts, up to the white space before the first word that differs. */
const sharedText = (a: string, b: string): number => {
  let shared = 0
  while (shared < a.length && a[shared] === b[shared]) shared++
  while (shared > 0 && !/\s/.test(a[shared - 1]!)) shared--
  return a.slice(0, shared).trimEnd().length
}

/**
 * A row {chosen, rejected} whose prompt is their common beginning: complete messages, or text. TRL splits texts at the first character that differs; this splits at
 * the word, so that no answer begins inside a word. If both answers begin with the same words, these words end up in the prompt: the data do not mark the boundary.
 */
export const parseChosenRejected = (value: unknown, line: number, source: string): Preference => {
  const labels = labelsOf(value, line)
  const [chosen, rejected] = [field(value, "chosen"), field(value, "rejected")]
  if (typeof chosen === "string" && typeof rejected === "string") {
    const [a, b] = [wellFormed(chosen, "chosen"), wellFormed(rejected, "rejected")]
    if (a === b) throw new BadRow("rejected", "the same as chosen")
    const shared = sharedText(a, b)
    if (shared === 0)
      throw new BadRow("chosen", "there is no prompt: the texts have no common beginning", inField("chosen", "there is no prompt"))
    checkAnswers(a.slice(shared), b.slice(shared))
    return preference(`${line}`, asked(a.slice(0, shared)), a.slice(shared), b.slice(shared), source, labels)
  }
  const [first, second] = [messagesOf(chosen, "chosen"), messagesOf(rejected, "rejected")]
  return { ...partedTurns(first, second, line, source), ...labels }
}
