/** The models of PPO: which share weights, which are copies, and whether they fit one another. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { keep, noGrad, scoped, type Tensor } from "../../engine/tensor.ts"
import { Llama } from "../../models/llama.ts"
import { initRewardModel, RewardModel } from "../../models/reward-model.ts"
import { loadTokenizer } from "../../models/tokenizer/index.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"

const clone = (tensor: Tensor): Tensor => keep(scoped(() => noGrad(() => tensor.clone()))).requiresGrad()

/** A copy to train, on weights of its own; the original stays as it is. */
export const cloneLlama = (model: Llama): Llama =>
  new Llama(model.config, Object.fromEntries(Object.entries(model.parameters).map(([name, weight]) => [name, clone(weight)])))

/** Makes one model's weights another's. */
export const copyWeights = (from: Llama, to: Llama): void =>
  scoped(() => noGrad(() => Object.entries(to.parameters).forEach(([name, weight]) => void weight.copy_(from.parameter(name)))))

/** A value model to train on a copy of a language model's weights; its head is new. */
export const valueFromPolicy = (policy: Llama, options: { readonly seed: number }): RewardModel => {
  const { "lm_head.weight": _, ...backbone } = policy.parameters
  return initRewardModel(cloneLlama(new Llama(policy.config, backbone)), options)
}

/** A value model to train on a copy of a scalar model's weights, its head as given or new. */
export const valueFromScalar = (model: RewardModel, options: { readonly seed: number; readonly head: "given" | "new" }): RewardModel => {
  const backbone = cloneLlama(model.backbone)
  return options.head === "new" ? initRewardModel(backbone, options) : new RewardModel(backbone, clone(model.head))
}

/** Two models that are to work on the same tokens have different tokenizers. */
export class TokenizerMismatchError extends Schema.TaggedError<TokenizerMismatchError>()("TokenizerMismatchError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  message: Schema.String
}) {}

/** Fails unless both tokenizers have the same pieces in the same order, so that a token means the same to both models. */
export const checkSameTokenizer = (policy: Tokenizer, other: Tokenizer, role: string): Effect.Effect<void, TokenizerMismatchError> => {
  const at = Array.from({ length: Math.max(policy.vocabSize, other.vocabSize) }, (_, i) => i).find((i) => {
    const [a, b] = [policy.pieces[i], other.pieces[i]]
    return a?.text !== b?.text || a?.type !== b?.type || a?.score !== b?.score
  })
  if (at === undefined) return Effect.void
  const describe = (tokenizer: Tokenizer) => {
    const piece = tokenizer.pieces[at]
    return `${tokenizer.vocabSize} pieces, number ${at} ${piece === undefined ? "missing" : `${JSON.stringify(piece.text)} (${piece.type})`}`
  }
  const fields = { doing: `PPO with this ${role}`, expected: `the policy's tokenizer (${describe(policy)})`, found: describe(other) }
  return Effect.fail(
    new TokenizerMismatchError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. Train the ${role} from a checkpoint of the policy's family.`
    })
  )
}

/** As checkSameTokenizer, of two folders with a tokenizer each. */
export const checkTokenizerFolders = Effect.fn("checkTokenizerFolders")(function* (policy: string, other: string) {
  const [one, two] = [yield* loadTokenizer(policy), yield* loadTokenizer(other)]
  yield* checkSameTokenizer(one, two, "model")
})
