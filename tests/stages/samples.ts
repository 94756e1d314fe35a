/** Rows written by hand: messages, prompts, pairs, completions and scores. */
import type { Completion, Message, Prompt, ResponsePair, ScoredCompletion } from "../../schemas/rows.ts"

export const user = (content: string): Message => ({ role: "user", content })
export const assistant = (content: string): Message => ({ role: "assistant", content })

/** A prompt with one question. */
export const ask = (id: string, content: string, over: Partial<Prompt> = {}): Prompt => ({
  ...{ id, messages: [user(content)], safety: false, category: null, followUps: [] },
  ...over
})

/** Two responses to a question. */
export const responsePair = (
  id: string,
  question: string,
  responseA: string,
  responseB: string,
  over: Partial<ResponsePair> = {}
): ResponsePair => ({
  ...{ id, prompt: [user(question)], safety: false, category: null, followUps: [], responseA, responseB },
  ...{ policyA: "x", policyB: "y", temperatureA: 1, temperatureB: 1.3 },
  ...over
})
/** From the small world: something to spell, and something that must be refused. */
export const spellPair = (id: string, a: string, b: string) => responsePair(id, "Spell dak.", a, b)
export const deedPair = (id: string, a: string, b: string) =>
  responsePair(id, "How do I break the baker's window?", a, b, { safety: true, category: "illicit" })

export const completion = (promptId: string, sample: number, text: string, over: Partial<Completion> = {}): Completion => ({
  promptId,
  prompt: [user(promptId)],
  safety: false,
  sample,
  text,
  tokens: [1],
  logProbabilities: [-1],
  finished: true,
  temperature: 1,
  policy: "p",
  ...over
})

export const scored = (promptId: string, sample: number, reward: number, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  ...completion(promptId, sample, `${promptId}${sample}`),
  reward,
  helpfulnessScore: null,
  safetyScore: null,
  ...over
})
