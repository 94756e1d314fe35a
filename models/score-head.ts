/** Checks that the head of a reward model's folder in Hugging Face's layout (LlamaForSequenceClassification) has one logit, before any weight is read. */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { ArtifactError } from "../schemas/artifact.ts"
import { readJson, weightFiles } from "../schemas/checkpoint-files.ts"
import { headName } from "./reward-model.ts"
import { openSafetensors } from "./safetensors.ts"
import { lookAtModel } from "./weights.ts"

const refuse = (directory: string, logits: number, where: string) =>
  ArtifactError.of({
    doing: `Reading the reward model in ${directory}`,
    expected: "a head of one logit, the score of a response",
    found: `a head of ${logits} logits (${where})`,
    hint: "This model is a classifier and has no single score. Use a reward model with one label; for a model with two labels, save the good label's row minus the other row as a head with one logit."
  })

/** The number of labels in config.json; undefined if it is not specified. */
const labelsOf = (config: Readonly<Record<string, unknown>>): number | undefined => {
  const { id2label, num_labels: count } = config
  if (typeof count === "number") return count
  return typeof id2label === "object" && id2label !== null ? Object.keys(id2label).length : undefined
}

/** A quick check before gigabytes are read: the check of any model, and the number of labels in config.json. */
export const lookAtReward = Effect.fn("lookAtReward")(function* (directory: string): Effect.fn.Return<void, ArtifactError> {
  yield* lookAtModel(directory)
  const labels = labelsOf(yield* readJson(join(directory, "config.json"), "Reading the model's configuration"))
  if (labels !== undefined && labels !== 1) return yield* refuse(directory, labels, `config.json has ${labels} labels`)
})

/** Fails for a head with several logits, according to the shape of its weight: (logits, D). */
export const checkOneLogit = Effect.fn("checkOneLogit")(function* (directory: string): Effect.fn.Return<void, ArtifactError> {
  for (const path of yield* weightFiles(directory)) {
    const shape = yield* Effect.acquireUseRelease(
      openSafetensors(path),
      ({ entries }) => Effect.succeed(entries.get(headName)?.shape),
      (file) => Effect.promise(() => file.close())
    )
    if (shape !== undefined && shape.length === 2 && shape[0] !== 1)
      return yield* refuse(directory, shape[0]!, `${headName} is (${shape.join(", ")})`)
  }
})
