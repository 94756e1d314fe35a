/**
 * Parsers for public data sets in which people or models compared or scored answers. Each parser turns a row into pairs of chosen and rejected, and throws LeftOut
 * for a tie. Pairs have the paper's four ratings (§3.2.1) if the data set says how much better the chosen answer is.
 */
import type { Message, Preference } from "../../schemas/rows.ts"
import { BadRow, inField, LeftOut } from "../read/record.ts"
import { asked, BadLabel, checkAnswers, field, label, list, nonEmpty, number, optional, preference, ratingOf, text } from "./fields.ts"
import { promptOf } from "./messages.ts"

export type Thresholds = readonly [number, number, number]

export interface JudgedOptions {
  readonly source: string
  /** The judgement that decides which answer is chosen, in sets that have both. */
  readonly judgement: "helpfulness" | "safety"
  /** Differences of scores from which a pair is rated slightly better, better, significantly better. Default: thresholds chosen per data set. */
  readonly thresholds: Thresholds | undefined
  /** For more than two answers: every judged pair, or only the best and the worst. */
  readonly pairs: "all" | "best-worst"
}
type Parse = (value: unknown, line: number, options: JudgedOptions) => ReadonlyArray<Preference>

const tie = () => new LeftOut("answers that were judged alike")

// ---- one of two ------------------------------------------------------------------------------------------------------------------------

/**
 * PKU-SafeRLHF: {prompt, response_0, response_1, is_response_0_safe, is_response_1_safe, better_response_id, safer_response_id}. The better answer is the more
 * helpful one, regardless of harm. Both judgements include the safety labels.
 */
export const parsePkuSafeRlhf: Parse = (value, line, { judgement, source }) => {
  const name = judgement === "helpfulness" ? "better_response_id" : "safer_response_id"
  // Never guess the chosen response: -1 means none, because the labels conflict.
  const chosenId = label(value, name, [0, 1, -1], line, "0 or 1")
  const safe = [0, 1].map((i) => label(value, `is_response_${i}_safe`, [true, false], line))
  const prompt = asked(nonEmpty(value, "prompt"))
  if (chosenId === null) throw new BadRow(name, "missing")
  if (chosenId === -1) throw tie()
  const [chosen, rejected] = [text(value, `response_${chosenId}`), text(value, `response_${1 - chosenId}`)]
  checkAnswers(chosen, rejected, [`response_${chosenId}`, `response_${1 - chosenId}`])
  return [preference(`${line}`, prompt, chosen, rejected, source, { chosenSafe: safe[chosenId]!, rejectedSafe: safe[1 - chosenId]! })]
}

/** A pair from a strength between -3 (the first answer is much better) and 3 (the second is much better): strength 3 gives rating 0, 2 gives 1, 1 gives 2. */
const byStrength = (
  strength: number,
  prompt: ReadonlyArray<Message>,
  answers: readonly [string, string],
  names: readonly [string, string],
  line: number,
  source: string
) => {
  const [chosen, rejected] = strength < 0 ? [0, 1] : [1, 0]
  checkAnswers(answers[chosen]!, answers[rejected]!, [names[chosen]!, names[rejected]!])
  return [preference(`${line}`, prompt, answers[chosen]!, answers[rejected]!, source, { rating: 3 - Math.abs(Math.round(strength)) })]
}

const strengths = [-3, -2, -1, 0, 1, 2, 3]
/**
 * How much better the second answer is. If the overall strength is 0, "about the same", the mean of the annotators' strengths decides which answer is negligibly better
 * (rating 3), unless that mean is 0 too: a value between -0.5 and 0.5.
 */
const strengthOf = (whole: number, individual: ReadonlyArray<unknown>): number => {
  if (whole !== 0) return whole
  const known = individual.filter((each): each is number => strengths.includes(each as number))
  const sum = known.reduce((total, each) => total + each, 0)
  if (sum === 0) throw tie()
  return Math.sign(sum) * 0.4
}
const entriesOf = (found: unknown, name: string): ReadonlyArray<unknown> =>
  Array.isArray(found) ? found.map((each: unknown) => (typeof each === "object" && each !== null ? optional(each, name) : undefined)) : []

/** HelpSteer3's preferences: {context: messages, response1, response2, overall_preference, individual_preference: [{score, ...}]}. */
export const parseHelpSteer3: Parse = (value, line, { source }) => {
  const whole = label(value, "overall_preference", strengths, line)
  if (whole === null) throw new BadRow("overall_preference", "missing")
  const prompt = promptOf(field(value, "context"), "context")
  const strength = strengthOf(whole, entriesOf(optional(value, "individual_preference"), "score"))
  return byStrength(strength, prompt, [text(value, "response1"), text(value, "response2")], ["response1", "response2"], line, source)
}

const helpSteerTurn = /\n?<extra_id_1>(User|Assistant)\n/g
/** Splits HelpSteer2's dialogues: one text with turns separated by marks of NeMo's format. The first turn is the user's. */
const helpSteerPrompt = (found: string): ReadonlyArray<Message> => {
  const starts = [...found.matchAll(helpSteerTurn)]
  const turns = [
    { role: "user" as const, content: found.slice(0, starts[0]?.index) },
    ...starts.map((start, i): Message => ({
      role: start[1] === "User" ? "user" : "assistant",
      content: found.slice(start.index + start[0].length, starts[i + 1]?.index)
    }))
  ]
  // A dialogue may end with the mark that starts the answer.
  const prompt = turns.length > 1 && turns.at(-1)!.role === "assistant" && turns.at(-1)!.content.trim() === "" ? turns.slice(0, -1) : turns
  return promptOf(prompt, "prompt")
}

/** HelpSteer2's preferences: {prompt, response_1, response_2, preference_strength, all_preferences_unprocessed: [{strength, ...}]}. */
export const parseHelpSteer2Pair: Parse = (value, line, { source }) => {
  const whole = label(value, "preference_strength", strengths, line)
  if (whole === null) throw new BadRow("preference_strength", "missing")
  const prompt = helpSteerPrompt(nonEmpty(value, "prompt"))
  const strength = strengthOf(whole, entriesOf(optional(value, "all_preferences_unprocessed"), "strength"))
  return byStrength(strength, prompt, [text(value, "response_1"), text(value, "response_2")], ["response_1", "response_2"], line, source)
}

/** SHP: {history, human_ref_A, human_ref_B, labels: 1 if A is preferred, 0 if B is}. */
export const parseShp: Parse = (value, line, { source }) => {
  const first = label(value, "labels", [0, 1], line)
  const prompt = asked(nonEmpty(value, "history"))
  if (first === null) throw new BadRow("labels", "missing")
  const [chosen, rejected] = first === 1 ? (["human_ref_A", "human_ref_B"] as const) : (["human_ref_B", "human_ref_A"] as const)
  const answers = [text(value, chosen), text(value, rejected)] as const
  checkAnswers(...answers, [chosen, rejected])
  return [preference(`${line}`, prompt, ...answers, source)]
}

/** WebGPT: {question: {full_text, ...}, answer_0, answer_1, score_0, score_1}. The scores sum to 0; 0 is a tie. */
export const parseWebGpt: Parse = (value, line, { source, thresholds }) => {
  const question = field(value, "question")
  const prompt = asked(typeof question === "string" ? nonEmpty(value, "question") : nonEmpty(question, "full_text", "question.full_text"))
  const difference = number(value, "score_0") - number(value, "score_1")
  if (difference === 0) throw tie()
  const [chosen, rejected] = difference > 0 ? [0, 1] : [1, 0]
  const answers = [text(value, `answer_${chosen}`), text(value, `answer_${rejected}`)] as const
  checkAnswers(...answers, [`answer_${chosen}`, `answer_${rejected}`])
  return [
    preference(
      `${line}`,
      prompt,
      ...answers,
      source,
      thresholds === undefined ? {} : { rating: ratingOf(Math.abs(difference), thresholds) }
    )
  ]
}

/**
 * Summarize-from-feedback's comparisons: {info: {subreddit, title, post} or {article}, summaries: [{text}, {text}], choice: 0 or 1}. The prompt is the paper's
 * (Stiennon et al. 2020, table 5): subreddit, title, post, "TL;DR:".
 */
export const parseSummarize: Parse = (value, line, { source }) => {
  const choice = label(value, "choice", [0, 1], line)
  if (choice === null) throw new BadRow("choice", "missing")
  const info = field(value, "info")
  const inner = (name: string) => text(info, name, `info.${name}`)
  const prompt =
    optional(info, "post", "info.post") !== undefined
      ? `SUBREDDIT: r/${inner("subreddit")}\n\nTITLE: ${inner("title")}\n\nPOST: ${inner("post")}\n\nTL;DR:`
      : `Article: ${inner("article")}\n\nTL;DR:`
  const summaries = list(value, "summaries")
  if (summaries.length !== 2) throw new BadRow("summaries", `expected two, found ${summaries.length}`, inField("summaries", "not two"))
  const texts = summaries.map((summary, i) => text(summary, "text", `summaries[${i}].text`))
  const [chosen, rejected] = [texts[choice]!, texts[1 - choice]!]
  checkAnswers(chosen, rejected, [`summaries[${choice}].text`, `summaries[${1 - choice}].text`])
  return [preference(`${line}`, asked(prompt), chosen, rejected, source)]
}

// ---- scores ----------------------------------------------------------------------------------------------------------------------------

interface Scored {
  readonly answer: string
  readonly score: number
  readonly field: string
}

/** Pairs of answers with different scores; the better one is chosen. */
const pairsOf = (
  prompt: ReadonlyArray<Message>,
  scored: ReadonlyArray<Scored>,
  line: number,
  { pairs, source }: JudgedOptions,
  thresholds: Thresholds | undefined
): ReadonlyArray<Preference> => {
  const usable = scored.filter(({ answer }) => answer.trim() !== "").toSorted((a, b) => b.score - a.score)
  if (usable.length < 2)
    throw new BadRow(
      scored[0]?.field.replace(/\[\d+\].*/, "") ?? "(the row)",
      `expected two or more answers that are not blank, found ${usable.length}`,
      "fewer than two answers"
    )
  const out: Array<Preference> = []
  usable.forEach((better, i) => {
    usable.slice(i + 1).forEach((worse, j) => {
      if (better.score === worse.score || better.answer === worse.answer) return
      if (pairs === "best-worst" && !(i === 0 && i + 1 + j === usable.length - 1)) return
      const rating = thresholds === undefined ? null : ratingOf(better.score - worse.score, thresholds)
      out.push(preference(`${line}/${i}-${i + 1 + j}`, prompt, better.answer, worse.answer, source, { rating }))
    })
  })
  if (out.length === 0) throw tie()
  return out
}

/** For UltraFeedback's overall scores, 1 to 10. */
const ultraThresholds: Thresholds = [1, 2, 4]

/**
 * UltraFeedback: {instruction, completions: [{response, overall_score, ...}]}, or H4's pairs made from it: {prompt, chosen: messages, rejected: messages,
 * score_chosen, score_rejected}. H4 broke ties at random; they are left out here.
 */
export const parseUltraFeedback: Parse = (value, line, options) => {
  const thresholds = options.thresholds ?? ultraThresholds
  if (optional(value, "completions") !== undefined) {
    const prompt = asked(nonEmpty(value, "instruction"))
    const scored = list(value, "completions").map((completion, i) => ({
      answer: text(completion, "response", `completions[${i}].response`),
      score: number(completion, "overall_score", `completions[${i}].overall_score`),
      field: `completions[${i}].response`
    }))
    return pairsOf(prompt, scored, line, options, thresholds)
  }
  const ended = (name: string) => {
    const dialogue = list(value, name)
    return { answer: text(dialogue.at(-1), "content", `${name}[${dialogue.length - 1}].content`), before: dialogue.slice(0, -1) }
  }
  const [chosen, rejected] = [ended("chosen"), ended("rejected")]
  const difference = number(value, "score_chosen") - number(value, "score_rejected")
  if (difference === 0) throw tie()
  if (difference < 0) throw new BadLabel(line, "score_chosen", "a score above score_rejected", optional(value, "score_chosen"))
  const prompt = chosen.before.length > 0 ? promptOf(chosen.before, "chosen") : promptOf(field(value, "prompt"), "prompt")
  checkAnswers(chosen.answer, rejected.answer)
  return [preference(`${line}`, prompt, chosen.answer, rejected.answer, options.source, { rating: ratingOf(difference, thresholds) })]
}

/** StackExchange: {question, answers: [{text, pm_score}]}, or pairs made from it: {question, response_j (rated higher), response_k}. Texts are HTML or Markdown and stay unchanged. */
export const parseStackExchange: Parse = (value, line, options) => {
  const prompt = asked(nonEmpty(value, "question"))
  if (optional(value, "answers") === undefined) {
    const answers = [text(value, "response_j"), text(value, "response_k")] as const
    checkAnswers(...answers, ["response_j", "response_k"])
    return [preference(`${line}`, prompt, ...answers, options.source)]
  }
  const scored = list(value, "answers").map((answer, i) => ({
    answer: text(answer, "text", `answers[${i}].text`),
    score: number(answer, "pm_score", `answers[${i}].pm_score`),
    field: `answers[${i}].text`
  }))
  return pairsOf(prompt, scored, line, options, options.thresholds)
}

/** For HelpSteer2's helpfulness, 0 to 4. */
const helpSteerThresholds: Thresholds = [1, 2, 3]

/**
 * HelpSteer2's scores: rows {prompt, response, helpfulness, ...}, with the two answers to a prompt in consecutive rows. Returns the pair at the second row.
 * Single answers and pairs with equal scores are passed to `leaveOut`.
 */
export const helpSteer2Scores = (options: JudgedOptions, leaveOut: (reason: string) => void) => {
  let before: { readonly prompt: string; readonly answer: Scored } | undefined
  const alone = () => before !== undefined && leaveOut("an answer whose prompt has no other")
  return {
    rows: (value: unknown, line: number): ReadonlyArray<Preference> => {
      const prompt = nonEmpty(value, "prompt")
      const answer = { answer: nonEmpty(value, "response"), score: number(value, "helpfulness"), field: "response" }
      if (before?.prompt !== prompt) {
        alone()
        before = { prompt, answer }
        return []
      }
      const first = before.answer
      before = undefined
      return pairsOf(helpSteerPrompt(prompt), [first, answer], line, options, options.thresholds ?? helpSteerThresholds)
    },
    end: (): ReadonlyArray<Preference> => {
      alone()
      return []
    }
  }
}
