/** The distribution that a token is drawn from: softmax(logits / temperature), after top-k and top-p. */
import { aten, type Tensor } from "../engine/tensor.ts"

export interface Restriction {
  /** 0 means greedy. */
  readonly temperature: number
  /** Keep the k most likely tokens; 0 keeps all. */
  readonly topK?: number
  /** Keep the most likely tokens that together reach this probability; 1 keeps all. */
  readonly topP?: number
}

/** Whether top-k or top-p exclude tokens. Greedy decoding ignores them. */
export const isRestricted = ({ temperature, topK = 0, topP = 1 }: Restriction): boolean => temperature !== 0 && (topK > 0 || topP < 1)

/** Logits (B, V) in float32 whose softmax is the distribution, for a temperature above 0. Top-p uses probabilities, so the temperature is applied first. */
export const distributionLogits = (logits: Tensor, restriction: Restriction): Tensor => {
  const wide = logits.to({ dtype: "float32" })
  return restrict(restriction.temperature === 1 ? wide : wide.div(restriction.temperature), restriction)
}

/** Logits (B, V) with the tokens excluded by top-k and top-p set to minus infinity. Of tokens with equal logits, top-k keeps all and top-p the first ones. */
export const restrict = (logits: Tensor, { topK = 0, topP = 1 }: Pick<Restriction, "topK" | "topP">): Tensor => {
  let kept = logits
  const vocabulary = logits.size(1)
  if (topK > 0 && topK < vocabulary) {
    const least = kept.topk(topK).values.slice(1, topK - 1, topK) // (B, 1)
    kept = kept.maskedFill(kept.lt(least), -Infinity)
  }
  if (topP < 1) {
    const { values, indices } = kept.sort(-1, true)
    const probabilities = values.softmax(-1)
    // A token is excluded when the tokens before it already reach topP. The first has none before it, so it is kept even when topP is 0.
    const excluded = probabilities.cumsum(-1).sub(probabilities).ge(Math.max(topP, 1e-30))
    // Back from the order of probabilities to that of the vocabulary.
    kept = kept.maskedFill(aten("scatter.src", excluded, 1, indices, excluded), -Infinity)
  }
  return kept
}
