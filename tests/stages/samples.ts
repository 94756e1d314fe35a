/** Completions and scores written by hand. */
import type { Completion, ScoredCompletion } from "../../schemas/rows.ts"

export const completion = (promptId: string, sample: number, text: string, over: Partial<Completion> = {}): Completion => ({
  promptId,
  prompt: [{ role: "user", content: promptId }],
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
