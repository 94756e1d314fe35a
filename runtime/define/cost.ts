/** What may be known of an artifact's size before it is made. Only estimates read it (`caravan plan`); no cache key holds any of it. */
export interface Sizes {
  /** Rows of a dataset. */
  readonly rows?: number
  /** Distinct prompts among them, where one prompt has several rows; as many as rows unless said otherwise. */
  readonly prompts?: number
  /** Mean tokens of a row's given part: earlier turns and the question; and of its response, or of each of its two responses. */
  readonly promptTokens?: number
  readonly responseTokens?: number
  /** User messages of a dialogue. Then promptTokens and responseTokens are of one message. */
  readonly turns?: number
  /** Share of rows whose prompt is meant to draw out something unsafe. */
  readonly safetyShare?: number
  /** Pieces of a tokenizer. */
  readonly vocabSize?: number
  /** The name of a model's shape ("7b"). */
  readonly model?: string
}
