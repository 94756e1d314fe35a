/** Preference pairs as most files have them: HH-RLHF's transcripts; prompt, chosen and rejected; chosen and rejected alone. Each parser gives a row, or throws BadRow or BadLabel. */
import type { Message, Preference } from "../../schemas/rows.ts"
import { BadRow, inField } from "../read/record.ts"
import { asked, checkAnswers, field, label, preference, text, wellFormed } from "./fields.ts"
import { messagesOf, promptOf, sameTurn } from "./messages.ts"

// ---- HH-RLHF ---------------------------------------------------------------------------------------------------------------------------

const turnStart = /\n\n(Human|Assistant):/g

/** The turns of an HH-RLHF transcript ("\n\nHuman: ...\n\nAssistant: ..."), their texts exactly as they stand. */
export const splitTranscript = (transcript: string, name: string): Array<Message> => {
  const starts = [...transcript.matchAll(turnStart)]
  if (starts.length === 0 || starts[0]!.index !== 0) throw new BadRow(name, 'a transcript begins with "\\n\\nHuman:" or "\\n\\nAssistant:"')
  return starts.map((start, i) => ({
    role: start[1] === "Human" ? "user" : "assistant",
    content: transcript.slice(start.index + start[0].length, starts[i + 1]?.index ?? transcript.length)
  }))
}

/** The transcript of turns as split above. */
export const joinTranscript = (turns: ReadonlyArray<Message>): string =>
  turns.map((turn) => `\n\n${turn.role === "user" ? "Human" : "Assistant"}:${turn.content}`).join("")

/**
 * A pair of dialogues: the prompt is the longest common prefix of whole turns, and each response the one turn of the assistant that follows. Dialogues in
 * which something else follows (they part before the last turn) or a response is empty do not fit: such a pair compares more than two answers
 * to one prompt, or no answer.
 */
const partedTurns = (chosen: ReadonlyArray<Message>, rejected: ReadonlyArray<Message>, line: number, source: string): Preference => {
  let shared = 0
  while (sameTurn(chosen[shared], rejected[shared])) shared++
  // Two equal dialogues share their answer too: then the pair says nothing.
  if (shared === chosen.length && shared === rejected.length) throw new BadRow("rejected", "the same as chosen")
  for (const [name, turns] of [
    ["chosen", chosen],
    ["rejected", rejected]
  ] as const) {
    if (turns.length !== shared + 1)
      throw new BadRow(
        name,
        `the transcripts part at turn ${shared + 1}, but this one goes on to turn ${turns.length}`,
        inField(name, "more than one turn differs between the transcripts")
      )
    if (turns[shared]!.role !== "assistant")
      throw new BadRow(
        name,
        `turn ${shared + 1}, where they part, is not the assistant's`,
        inField(name, "where the transcripts part is not the assistant's turn")
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

/** The answer of a field that is text, or messages: the answer alone, or the whole dialogue that it ends. */
const answerOf = (value: unknown, name: string, prompt: ReadonlyArray<Message>): string => {
  const found = field(value, name)
  const messages: ReadonlyArray<Message> =
    typeof found === "string" ? [{ role: "assistant", content: wellFormed(found, name) }] : messagesOf(found, name)
  const last = messages.at(-1)!
  if (last.role !== "assistant") throw new BadRow(name, "the last message is not the assistant's")
  const before = messages.slice(0, -1)
  if (before.length > 0 && !(before.length === prompt.length && before.every((turn, i) => sameTurn(turn, prompt[i])))) {
    throw new BadRow(name, "what comes before the answer is not the prompt")
  }
  if (last.content.trim() === "") throw new BadRow(name, "the response is empty")
  return last.content
}

/** The rating, and whether each response was labelled safe; null where there is none. Throws BadLabel for any other. */
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
 * A row {prompt, chosen, rejected, rating?, chosenSafe?, rejectedSafe?}: the prompt text or messages, the responses text or messages (with or
 * without the prompt's before them). Two equal responses do not fit: such a pair says nothing. What was judged is read first, so that a row that does not
 * fit does not hide it.
 */
export const parsePromptChosenRejected = (value: unknown, line: number, source: string): Preference => {
  const labels = labelsOf(value, line)
  const prompt = promptOf(field(value, "prompt"), "prompt")
  const chosen = answerOf(value, "chosen", prompt)
  const rejected = answerOf(value, "rejected", prompt)
  if (chosen === rejected) throw new BadRow("rejected", "the same as chosen")
  return preference(`${line}`, prompt, chosen, rejected, source, labels)
}

/** How much of two texts is the same, up to the white space before the word in which they part. */
const sharedText = (a: string, b: string): number => {
  let shared = 0
  while (shared < a.length && a[shared] === b[shared]) shared++
  while (shared > 0 && !/\s/.test(a[shared - 1]!)) shared--
  return a.slice(0, shared).trimEnd().length
}

/**
 * A row {chosen, rejected} whose prompt is what both begin with: whole messages, or text. TRL parts texts at the first character that differs; here they part at
 * the word, so that no answer begins within one. Two texts that begin with the same words of an answer have them in the prompt: nothing tells.
 */
export const parseChosenRejected = (value: unknown, line: number, source: string): Preference => {
  const labels = labelsOf(value, line)
  const [chosen, rejected] = [field(value, "chosen"), field(value, "rejected")]
  if (typeof chosen === "string" && typeof rejected === "string") {
    const [a, b] = [wellFormed(chosen, "chosen"), wellFormed(rejected, "rejected")]
    if (a === b) throw new BadRow("rejected", "the same as chosen")
    const shared = sharedText(a, b)
    if (shared === 0)
      throw new BadRow("chosen", "there is no prompt: the texts have no beginning in common", inField("chosen", "there is no prompt"))
    checkAnswers(a.slice(shared), b.slice(shared))
    return preference(`${line}`, asked(a.slice(0, shared)), a.slice(shared), b.slice(shared), source, labels)
  }
  const [first, second] = [messagesOf(chosen, "chosen"), messagesOf(rejected, "rejected")]
  return { ...partedTurns(first, second, line, source), ...labels }
}
