/** The first models on the small world: a base model (§2.2) and SFT in two steps (§3.1); and how versions are tuned from the base model (§3.2.3). */
import type { Demonstration } from "../../schemas/rows.ts"
import { filterDemonstrations } from "../../stages/data/filter-demonstrations.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { sft } from "../../stages/training/sft.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import { worldDemonstrations, worldTexts } from "../../stages/world/data.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { WorldParams } from "./params.ts"

export const worldTokenizer = ({ texts, vocabSize }: Pick<WorldParams, "texts" | "vocabSize">) =>
  tokenizer({ texts: worldTexts({}, { count: Math.min(1500, texts) }).named("tokenizer-texts") }, { vocabSize })

export type PretrainSizes = Pick<
  WorldParams,
  | ("dim" | "layers" | "heads" | "contextLength" | "sequenceLength")
  | ("pretrainSteps" | "pretrainBatch" | "pretrainLearningRate" | "precision")
>
/** A base model from scratch. */
export const pretrained = (inputs: Parameters<typeof pretrain>[0], sizes: PretrainSizes, name = "base"): Policy =>
  pretrain(inputs, {
    dim: sizes.dim,
    layers: sizes.layers,
    heads: sizes.heads,
    kvHeads: sizes.heads,
    ffn: Math.ceil((sizes.dim * 8) / 3 / 16) * 16,
    contextLength: sizes.contextLength,
    sequenceLength: sizes.sequenceLength,
    steps: sizes.pretrainSteps,
    batchSize: sizes.pretrainBatch,
    microBatchSize: sizes.pretrainBatch,
    learningRate: sizes.pretrainLearningRate,
    warmupSteps: Math.ceil(sizes.pretrainSteps / 25),
    precision: sizes.precision
  }).named(name)

/** §3.1: public instruction data, which is careless. */
export const publicDialogues = (count: number): Rows<Demonstration> =>
  filterDemonstrations({ demonstrations: worldDemonstrations({}, { count, quality: "public" }).named("public-dialogues") })

/** The first models, starting from a base model of the world unless another one is given. */
export const firstModels = (params: WorldParams, start?: Policy) => {
  const base = start ?? pretrained({ tokenizer: worldTokenizer(params), texts: worldTexts({}, { count: params.texts }) }, params)
  const tune = (init: Policy, demonstrations: Rows<Demonstration>, steps: number, name: string): Policy =>
    sft(
      { init, demonstrations },
      {
        steps,
        learningRate: params.learningRate,
        batchSize: params.batchSize,
        microBatchSize: params.batchSize,
        sequenceLength: 2 * params.sequenceLength,
        precision: params.precision
      }
    ).named(name)
  const demonstrations = worldDemonstrations({}, { count: params.demonstrations, quality: "annotated" }).named("demonstrations")
  const bootstrapped = tune(base, publicDialogues(params.bootstrap), Math.ceil(params.sftSteps / 2), "sft-bootstrap")
  return {
    base,
    bootstrapped,
    sft: tune(bootstrapped, demonstrations, params.sftSteps, "sft"),
    demonstrations,
    /** Tunes a version from the base model. */
    tune: (data: Rows<Demonstration>, steps: number, name: string): Policy => tune(base, data, steps, name)
  }
}
export type FirstModels = ReturnType<typeof firstModels>
