/**
 * Token counts of the small world's dialogues with a tokenizer of 600 pieces trained on them (the demo's; measured by tests/models/cost.test.ts):
 * of the text before the last answer, and of that answer.
 */
export const worldLengths = {
  prompts: 21,
  demonstrations: { promptTokens: 61, responseTokens: 13 }
}
