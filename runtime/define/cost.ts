/** What is known about an artifact's size before it is made. Used only for estimates (`caravan plan`); not part of any cache key. */
export interface Sizes {
  /** Rows of a dataset. */
  readonly rows?: number
  /** Distinct prompts, if a prompt has several rows. Default: the number of rows. */
  readonly prompts?: number
  /** Mean tokens of a row's prompt (earlier turns and the question), and of its response, or of each of its two responses. */
  readonly promptTokens?: number
  readonly responseTokens?: number
  /** User messages per dialogue. promptTokens and responseTokens then count one message. */
  readonly turns?: number
  /** Fraction of rows whose prompt is meant to elicit something unsafe. */
  readonly safetyShare?: number
  /** Vocabulary size of a tokenizer. */
  readonly vocabSize?: number
  /** The name of a model preset ("7b"). */
  readonly model?: string
}
