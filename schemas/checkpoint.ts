/**
 * Checkpoints by role. A checkpoint is a directory that transformers can load (config.json, model.safetensors or shards with an index, the
 * tokenizer's files) plus `caravan.json`, which names the model's role.
 */
import * as Effect from "effect/Effect"
import { type ArtifactType, type Checkpoint, type Role } from "./artifact.ts"

const checkpoint = <R extends Role>(...roles: ReadonlyArray<R>): ArtifactType<Checkpoint<R>> => {
  const names = roles.map((role) => `checkpoint:${role}`)
  return {
    kind: "checkpoint",
    name: names.join("|"),
    accepts: (name) => names.includes(name),
    validate: (directory) =>
      Effect.flatMap(
        Effect.promise(() => import("./checkpoint-files.ts")),
        (files) => files.validateCheckpoint(directory, roles)
      )
  }
}

/** A language model that generates answers: the base model, fine-tuned models, the PPO policy. */
export const Policy = checkpoint("policy")
export const HelpfulnessReward = checkpoint("helpfulness-reward")
export const SafetyReward = checkpoint("safety-reward")
/** A reward model trained separately, on other data: a guard against reward hacking (§3.4.1). */
export const GeneralReward = checkpoint("general-reward")
/** A port that accepts any reward model. */
export const Reward = checkpoint("helpfulness-reward", "safety-reward", "general-reward")
/** The critic of PPO. */
export const Value = checkpoint("value")
/** A language model fine-tuned to say whether a prompt or a response is safe, and which risk category applies. */
export const SafetyClassifier = checkpoint("safety-classifier")
