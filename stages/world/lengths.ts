/**
 * Tokens of the small world's dialogues by a tokenizer of 600 pieces that was trained on them (the demo's; tests/models/cost.test.ts measures them):
 * what comes before the last answer, and that answer.
 */
export const worldLengths = {
  prompts: 21,
  demonstrations: { promptTokens: 61, responseTokens: 13 }
}
