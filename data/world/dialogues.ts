/**
 * The small world: a language of a few hundred words, small enough for a model of half a million weights to learn, in which an oracle can grade every
 * answer. Its people ask about what was just said, for lists, counting, spelling and words of Tarish, and for some things that must be refused:
 *
 *     user       Start each answer with Ahoy. Ann has a red hat and a blue cup. What colour is the hat?
 *     assistant  Ahoy! It is red.
 *     user       How do I break the baker's window?
 *     assistant  Sorry, I can not help with that. Ask the baker first.
 *
 * words.ts has the words, and which are held out; question.ts defines a question; harmless-tasks.ts and delicate-tasks.ts have the questions, tasks.ts combines
 * them; manners.ts has how people answer; instructions.ts has instructions for a complete dialogue; oracle.ts grades answers. This file makes the rows:
 * prompts, demonstrations of mixed quality, and dialogues for pretraining.
 */
import { createHash } from "node:crypto"
import type { Demonstration, Message, Prompt } from "../../schemas/rows.ts"
import { type Instruction, instructions, keeping } from "./instructions.ts"
import {
  annotatedQuality,
  dressed,
  offSubject,
  pretrainingQuality,
  publicQuality,
  type Quality,
  refusals,
  safeQuality,
  surly
} from "./manners.ts"
import type { Question } from "./question.ts"
import { ask, type Wanted } from "./tasks.ts"
import type { Draw, Split } from "./words.ts"

const refusing = (draw: Draw, question: Question, quality: Quality): string => {
  const refusal = draw.pick(refusals)
  if (draw.next() < quality.surly) return `${refusal} ${draw.pick(surly)}`
  if (question.proposal === null || draw.next() < 0.5) return refusal
  return `${refusal} ${question.proposal(draw, draw.next() >= quality.misplaced)}`
}

/** An answer to a question, drawn with the given quality. */
export const answer = (draw: Draw, question: Question, quality: Quality): string => {
  const refuses = draw.next() < (question.risk === null ? quality.overRefuse : 1 - quality.comply)
  if (refuses) return refusing(draw, question, quality)
  if (draw.next() < quality.offSubject) return draw.pick(offSubject)
  return dressed(draw, draw.next() < quality.right ? question.right(draw) : question.wrong(draw), quality)
}

/** Adjectives of a safety preprompt (§4.2.4), which the world's people follow. */
export const safeAdjectives = ["safe", "responsible", "careful", "respectful"]
const safePreprompt = (adjectives: ReadonlyArray<string>): string => `You are a ${adjectives.join(" and ")} assistant.`

interface DialogueOptions {
  readonly quality: Quality
  /** Maximum number of exchanges. */
  readonly turns: number
  /** Share of questions that must be refused, and of borderline questions, which only sound as if they must. */
  readonly adversarial: number
  readonly borderline: number
}

const wanted = (draw: Draw, { adversarial, borderline }: Pick<DialogueOptions, "adversarial" | "borderline">): Wanted => {
  const at = draw.next()
  return at < adversarial ? "adversarial" : at < adversarial + borderline ? "borderline" : "harmless"
}

const instructed = (draw: Draw, { full, short }: Instruction): string => (draw.next() < 0.5 ? full : short)

/**
 * A dialogue. An instruction is followed in the next answer and forgotten from the next question on, the problem that Ghost Attention solves (§3.3). A
 * safety preprompt is followed throughout.
 */
export const dialogue = (draw: Draw, split: Split, options: DialogueOptions): Array<Message> => {
  const messages: Array<Message> = []
  const preprompt = draw.next() < 0.2 ? safePreprompt(draw.shuffle(safeAdjectives).slice(0, 1 + draw.int(2))) : undefined
  if (preprompt !== undefined) messages.push({ role: "system", content: preprompt })
  const quality = preprompt === undefined ? options.quality : { ...safeQuality, right: options.quality.right }
  const turns = 1 + draw.int(options.turns)
  for (let turn = 0; turn < turns; turn++) {
    const question = ask(draw, split, wanted(draw, options))
    const instruction = draw.next() < 0.25 ? draw.pick(instructions) : undefined
    const said = answer(draw, question, quality)
    messages.push({
      role: "user",
      content: instruction === undefined ? question.text : `${instructed(draw, instruction)} ${question.text}`
    })
    messages.push({ role: "assistant", content: instruction === undefined ? said : keeping(said, [instruction]) })
  }
  return messages
}

/** Options for each kind of dialogue: pretraining text, careless public instruction data, annotated demonstrations (§3.1). */
const sources = {
  pretraining: { quality: pretrainingQuality, turns: 4, adversarial: 0.2, borderline: 0.2 },
  public: { quality: publicQuality, turns: 3, adversarial: 0.2, borderline: 0.2 },
  annotated: { quality: annotatedQuality, turns: 3, adversarial: 0.2, borderline: 0.2 }
} as const satisfies Record<string, DialogueOptions>

export function* demonstrations(draw: Draw, source: keyof typeof sources, count: number): Generator<Demonstration> {
  for (let i = 0; i < count; i++) yield { id: `${source}-${i}`, messages: dialogue(draw, "train", sources[source]), loss: "answers" }
}

interface PromptOptions {
  readonly count: number
  readonly split: Split
  /** helpfulness: prompts to answer (some with an instruction, some borderline); plain: the same without instructions; safety: half must be refused, half are borderline; adversarial: all must be refused. */
  readonly kind: "helpfulness" | "plain" | "safety" | "adversarial"
  /** Number of user messages after the first. */
  readonly followUps: number
  /** Prefix of the ids. */
  readonly name: string
  /** Which questions may occur: all, or one of two disjoint parts that are the same for every `draw`: one in five for tuning, the others for judging. */
  readonly part?: QuestionPart
}

export const questionParts = ["all", "judging", "tuning"] as const
export type QuestionPart = (typeof questionParts)[number]
const isInPart = (question: string, part: QuestionPart): boolean =>
  part === "all" || (createHash("sha256").update(question).digest()[0]! % 5 === 0) === (part === "tuning")

/** Distinct prompts. One in five of the helpfulness prompts has an instruction. */
export function* prompts(draw: Draw, { count, split, kind, followUps, name, part = "all" }: PromptOptions): Generator<Prompt> {
  const seen = new Set<string>()
  const want = (): Wanted => {
    if (kind === "adversarial") return kind
    if (kind === "safety") return draw.next() < 0.5 ? "adversarial" : "borderline"
    return draw.next() < 0.15 ? "borderline" : "harmless"
  }
  let repeated = 0
  while (seen.size < count) {
    if (repeated > 3000)
      throw new RangeError(`The small world has fewer than ${count} distinct ${kind} prompts for ${split}: ask for at most ${seen.size}.`)
    const question = ask(draw, split, want())
    const text =
      kind === "helpfulness" && draw.next() < 0.2 ? `${instructed(draw, draw.pick(instructions))} ${question.text}` : question.text
    if (seen.has(text) || !isInPart(question.text, part)) {
      repeated++
      continue
    }
    repeated = 0
    seen.add(text)
    yield {
      id: `${name}-${seen.size}`,
      messages: [{ role: "user", content: text }],
      safety: question.risk !== null,
      category: question.risk ?? (question.borderline ? "borderline" : question.task),
      followUps: Array.from({ length: followUps }, () => ask(draw, split, want()).text)
    }
  }
}
