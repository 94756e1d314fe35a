/**
 * Loads PPO's initial models. Each distinct base is in memory only once.
 *
 * Without LoRA, the policy and the value model are copies of the models that they start from. With LoRA they are adapters: the policy's on the checkpoint
 * that PPO starts from, which is the reference (without the adapter); the value model's on the weights that it starts from. Reward models that were
 * trained with LoRA from the same checkpoint (the input `base`) are loaded as that checkpoint once, with an adapter and a head for each.
 */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { deriveSeed } from "../../engine/random.ts"
import type { Device, DType } from "../../engine/tensor.ts"
import { checkBase, loadRewardAdapter } from "../../models/adapter-files.ts"
import { formatOf } from "../../models/chat.ts"
import { checkVocabulary, type LoadedReward, loadPolicy, loadReward } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import { loadBackbone, loadConfig } from "../../models/weights.ts"
import { weightsDigest } from "../../models/weights-digest.ts"
import { ArtifactError, type ArtifactRef, type Checkpoint } from "../../schemas/artifact.ts"
import { adapterFile, adapterFolder } from "../../schemas/checkpoint-files.ts"
import { isScorer, openScorer, type Scorer } from "../common/scorer.ts"
import { type LoraFields, withLora } from "../training/lora.ts"
import type { PpoConfig } from "./config.ts"
import { cloneLlama, initValueModel, withoutOutput } from "./models.ts"

/** A source of rewards: a reward model, or a scorer that replaces one. */
export type RewardSource = LoadedReward | Scorer
export const isModel = (source: RewardSource | undefined): source is LoadedReward => source !== undefined && "model" in source

/** Models of a method without a value model (RLOO and GRPO). */
export interface PolicyModels {
  /** Trained. */
  readonly policy: Llama
  /** Frozen; the policy is kept close to it. */
  readonly reference: Llama
  /** Shared by all models. */
  readonly tokenizer: Tokenizer
  readonly helpfulness: RewardSource
  readonly safety: RewardSource | undefined
}
export interface PpoModels extends PolicyModels {
  /** Trained. */
  readonly value: RewardModel
}

interface Placed {
  readonly device: Device
  readonly dtype: DType
}
type RewardRef = ArtifactRef<Checkpoint<"helpfulness-reward" | "safety-reward">>

export interface PolicyInputs {
  readonly policy: ArtifactRef<Checkpoint<"policy">>
  readonly helpfulness: ArtifactRef<Checkpoint<"helpfulness-reward">>
  readonly safety?: ArtifactRef<Checkpoint<"safety-reward">> | undefined
  readonly base?: ArtifactRef<Checkpoint<"policy">> | undefined
}
interface LoadingOptions<Config> {
  readonly config: Config
  readonly device: Device
  readonly seed: number
}

/** Loads each model once, and opens scorers for the duration of the scope. The reference is the loaded policy itself; the policy is a copy, or an adapter on it. */
export const loadPolicyModels = Effect.fn("loadPolicyModels")(function* (
  inputs: PolicyInputs,
  { config, device, seed }: LoadingOptions<Pick<PpoConfig, "precision"> & LoraFields>
) {
  const placed: Placed = { device, dtype: config.precision }
  const { model: reference, tokenizer } = yield* loadPolicy(inputs.policy, placed)
  const modelOf =
    inputs.base === undefined
      ? (ref: RewardRef) => loadReward(ref, placed)
      : yield* rewardsOn(inputs.base, { model: reference, path: inputs.policy.path }, placed)
  const rewardOf = Effect.fnUntraced(function* (ref: RewardRef, role: string) {
    if (isScorer(ref)) return yield* openScorer(ref)
    const loaded = yield* modelOf(ref)
    yield* checkSameTokenizer(tokenizer, loaded.tokenizer, `${role} reward model`)
    return loaded
  })
  const helpfulness: RewardSource = yield* rewardOf(inputs.helpfulness, "helpfulness")
  const safety: RewardSource | undefined = inputs.safety === undefined ? undefined : yield* rewardOf(inputs.safety, "safety")
  const policy = config.loraRank === 0 ? cloneLlama(reference) : withLora(reference, config, deriveSeed(seed, "ppo", "policy adapter"))
  const models: PolicyModels = { policy, reference, tokenizer, helpfulness, safety }
  return models
})

/** The same models plus a value model. */
export const loadModels = Effect.fn("ppo.loadModels")(function* (inputs: PolicyInputs, options: LoadingOptions<PpoConfig>) {
  const { config, seed } = options
  const models = yield* loadPolicyModels(inputs, options)
  const { helpfulness, reference } = models
  if (config.valueInit === "reward" && !isModel(helpfulness))
    return yield* ArtifactError.of({
      doing: "Initialising PPO's value model from the helpfulness reward model (valueInit reward)",
      expected: "a model with weights",
      found: `the scorer ${helpfulness.name}`,
      hint: "Set valueInit to policy."
    })
  const value = initValueModel(isModel(helpfulness) && config.valueInit === "reward" ? helpfulness.model.backbone : reference, {
    seed: deriveSeed(seed, "ppo", "value head"),
    lora: config
  })
  const loaded: PpoModels = { ...models, value }
  return loaded
})

/** Loads reward models as adapters on a base that is in memory once; the policy's weights are used as the base if they are equal. */
const rewardsOn = Effect.fn("ppo.rewardsOn")(function* (
  { path }: { readonly path: string },
  policy: { readonly model: Llama; readonly path: string },
  placed: Placed
) {
  const weights = yield* weightsDigest(path)
  const isPolicy = (yield* weightsDigest(policy.path)) === weights && isDeepStrictEqual(yield* loadConfig(path), policy.model.config)
  const base = isPolicy ? withoutOutput(policy.model) : yield* loadBackbone(path, placed)
  return Effect.fnUntraced(function* (reward: RewardRef): Effect.fn.Return<LoadedReward, ArtifactError> {
    const refuse = (expected: string, found: string, hint: string) =>
      ArtifactError.of({ doing: `Reading the reward model ${reward.path} as an adapter on ${path}`, expected, found, hint })
    const folder = join(reward.path, adapterFolder)
    if (!existsSync(join(folder, adapterFile)))
      return yield* refuse(
        `a reward model trained with LoRA, with a folder ${adapterFolder}`,
        "a complete model without this folder",
        "Remove PPO's input base, so that reward models are used as complete models, or train this one with loraRank."
      )
    yield* checkBase(folder, { path, weights })
    if (!isDeepStrictEqual(yield* loadConfig(reward.path), base.config))
      return yield* refuse("the base's config.json", "a different one", "Pass the base that the reward model was trained from.")
    const model = yield* loadRewardAdapter(folder, base)
    const tokenizer = yield* loadTokenizer(reward.path)
    yield* checkVocabulary(tokenizer, model.config, reward.path)
    return { model, tokenizer }
  })
})

/** The smallest context of all models, in tokens of prompt and response. */
export const smallestContext = ({ reference, value, helpfulness, safety }: PolicyModels & { readonly value?: RewardModel }): number =>
  Math.min(
    reference.config.maxPositions,
    value?.config.maxPositions ?? Infinity,
    // Minus the tokens that close an answer, which may be missing from sampled tokens.
    ...[helpfulness, safety].map((reward) =>
      isModel(reward) ? reward.model.config.maxPositions - formatOf(reward.tokenizer).closing : Infinity
    )
  )

/** Two models that must process the same tokens have different tokenizers. */
export class TokenizerMismatchError extends Schema.TaggedError<TokenizerMismatchError>()("TokenizerMismatchError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** Fails unless both tokenizers have the same pieces in the same order, so that a token means the same to both models. */
const checkSameTokenizer = (policy: Tokenizer, other: Tokenizer, role: string): Effect.Effect<void, TokenizerMismatchError> => {
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

/** Like checkSameTokenizer, for two folders with a tokenizer each. */
export const checkTokenizerFolders = Effect.fn("checkTokenizerFolders")(function* (policy: string, other: string) {
  // A scorer reads text, not tokens.
  if ([policy, other].some((path) => isScorer({ path }))) return
  const [one, two] = [yield* loadTokenizer(policy), yield* loadTokenizer(other)]
  yield* checkSameTokenizer(one, two, "model")
})
