/** Sizes and choices of the recipe on the small world (recipe.ts), and values derived from them. */
import * as Schema from "effect/Schema"
import { PipelineError } from "../../runtime/errors.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"

/** The steps that can be left out to measure their contribution (docs/ablations.md). */
export const parts = ["nothing", "margin", "ppo", "prior-versions", "safety-model", "distillation", "ghost-attention"] as const

/** Sizes for a run of minutes on two cores. */
export const worldParams = {
  rounds: hyperInt(5, "number of rounds of pairs, reward models and rejection sampling; §3.2.3: 5", { min: 1 }),
  multiTurn: hyper(
    0,
    "share of a round's helpfulness dialogues that are continued in the next round's pairs, after the chosen response (§3.2.1, A.3.1)",
    {
      min: 0,
      max: 1
    }
  ),
  temperatures: hyper(
    "fixed",
    "sampling temperature of rejection sampling from the second round on: fixed, or the best of a sweep in the previous round (§3.2.3)",
    ["fixed", "swept"]
  ),
  evaluation: hyper(
    "short",
    "extent of the evaluation; full adds Self-BLEU by temperature (figure 21), a general reward model against reward hacking (§3.4.1), a safety classifier that counts violations, red teaming (§4.3) and violations over several turns (figure 18)",
    ["short", "full"]
  ),
  without: hyper(
    "nothing",
    "step to leave out; without the safety model there is no distillation either, since distillation keeps the answers that model prefers (§4.2.4)",
    parts
  ),
  dim: hyperInt(96, "width of the model", { min: 2 }),
  layers: hyperInt(3, "number of its transformer blocks", { min: 1 }),
  heads: hyperInt(4, "number of its attention heads", { min: 1 }),
  vocabSize: hyperInt(600, "size of the tokenizer's vocabulary", { min: 300 }),
  contextLength: hyperInt(384, "the model's context length in tokens", { min: 256 }),
  sequenceLength: hyperInt(128, "tokens per sequence of pretraining; twice as many in fine-tuning", { min: 128 }),
  texts: hyperInt(8000, "number of dialogues for pretraining", { min: 100 }),
  pretrainSteps: hyperInt(1200, "number of optimiser steps of pretraining", { min: 1 }),
  pretrainBatch: hyperInt(8, "sequences per optimiser step of pretraining", { min: 1 }),
  pretrainLearningRate: hyper(3e-3, "peak learning rate of pretraining", { min: 0 }),
  bootstrap: hyperInt(200, "number of careless public dialogues in SFT's first step", { min: 1 }),
  demonstrations: hyperInt(400, "number of annotated dialogues in SFT's second step", { min: 1 }),
  learningRate: hyper(1e-3, "peak learning rate of every fine-tuning; the paper's 2e-5 is for 7B and larger", { min: 0 }),
  sftSteps: hyperInt(24, "number of optimiser steps of SFT's second step; the first step has half as many", { min: 2 }),
  steps: hyperInt(60, "number of optimiser steps of each version's fine-tuning from the base model", { min: 1 }),
  batchSize: hyperInt(6, "sequences per optimiser step of fine-tuning", { min: 1 }),
  pairs: hyperInt(300, "helpfulness prompts per round for which pairs are collected, and the same number of safety prompts", { min: 10 }),
  testPairs: hyperInt(
    250,
    "prompts over all rounds for which held-out helpfulness pairs are collected, and the same number of safety prompts",
    {
      min: 10
    }
  ),
  noise: hyper(0.06, "noise of the annotators: the probability of a wrong choice is exp(-difference / noise) / 2", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak learning rate of the reward models; the paper's 1e-5 is for 7B and larger", { min: 0 }),
  rewardBatch: hyperInt(16, "pairs per optimiser step of the reward models", { min: 1 }),
  prompts: hyperInt(400, "number of helpfulness prompts for rejection sampling and PPO, and half as many safety prompts", { min: 2 }),
  k: hyperInt(6, "number of answers per prompt", { min: 1 }),
  temperature: hyper(1, "sampling temperature of rejection sampling; the paper's 1.2 to 1.3 is for larger models", { min: 0 }),
  ppoFrom: hyperInt(
    5,
    'first round whose version is trained with PPO after rejection sampling; the last version always is. §3.2.3: "Until RLHF (V4), we used only Rejection Sampling fine-tuning, and after that, we combined the two sequentially"',
    { min: 1 }
  ),
  ppoUse: hyper(
    "samples and pairs",
    "with ppoFrom before the last round: whether the next round uses the version after PPO for both samples and pairs, or only for samples",
    ["samples and pairs", "samples"]
  ),
  ppoIterations: hyperInt(15, "number of PPO iterations", { min: 1 }),
  ppoBatch: hyperInt(96, "answers per PPO iteration", { min: 1 }),
  ppoLearningRate: hyper(5e-5, "PPO's learning rate, constant; the paper's 1e-6 is for 7B and larger", { min: 0 }),
  valueLearningRate: hyper(1e-3, "learning rate of the value model", { min: 0 }),
  beta: hyper(0.1, "weight of PPO's KL penalty; §3.2.3: 0.01 (7B, 13B), 0.005 (34B, 70B)", { min: 0 }),
  dialogues: hyperInt(100, "number of dialogues for Ghost Attention, and the same number of held-out ones", { min: 4 }),
  heldOut: hyperInt(250, "number of held-out helpfulness prompts for evaluation, and the same number of safety prompts", { min: 10 }),
  answers: hyperInt(1, "number of answers of each version per held-out prompt; more answers reduce the noise of its figures", { min: 1 }),
  attacks: hyperInt(
    100,
    "with the full evaluation: number of new prompts that the red team tries on each version (§4.3), and of multi-turn dialogues",
    {
      min: 1
    }
  ),
  maxNewTokens: hyperInt(40, "maximum number of tokens per answer", { min: 8 }),
  inferenceBatch: hyperInt(64, "number of sequences decoded or scored in parallel", { min: 1 }),
  precision: hyper("float32", "dtype of every model's weights and activations", ["float32", "bfloat16"])
}

const WorldParams = Schema.Struct(worldParams)
export type WorldParams = typeof WorldParams.Type

/**
 * Throws PipelineError for inconsistent sizes, before anything runs; the pretraining stage checks the model's own sizes. `isOwn`: the model is pretrained
 * in this pipeline, so its context is contextLength.
 */
export const checkSizes = (
  params: Partial<Pick<WorldParams, "contextLength" | "maxNewTokens" | "rounds" | "testPairs">>,
  isOwn: boolean
): void => {
  const { contextLength = Infinity, maxNewTokens = 0, rounds = 1, testPairs = Infinity } = params
  const refuse = (what: string) => {
    throw new PipelineError({ message: what })
  }
  if (isOwn && maxNewTokens >= contextLength)
    refuse(`maxNewTokens ${maxNewTokens} leaves no space for a prompt in the model's context: set it below contextLength ${contextLength}.`)
  if (testPairs < rounds)
    refuse(`testPairs ${testPairs} is less than rounds ${rounds}, but the rounds share the test pairs: set at least one per round.`)
}

/** Whether the recipe includes this step. */
export const has = ({ without }: WorldParams, part: (typeof parts)[number]): boolean => without !== part

/** Whether a round's version is trained with PPO after rejection sampling. */
export const hasPpo = (round: number, params: WorldParams): boolean =>
  has(params, "ppo") && (round >= params.ppoFrom || round === params.rounds)

/** Settings for sampling from every model, and for scoring rows. */
export const samplingOf = ({
  inferenceBatch: batchSize,
  maxNewTokens,
  precision
}: Pick<WorldParams, "inferenceBatch" | "maxNewTokens" | "precision">) => ({
  maxNewTokens,
  batchSize,
  precision
})
export const scoringOf = ({ inferenceBatch: batchSize, precision }: Pick<WorldParams, "inferenceBatch" | "precision">) => ({
  batchSize,
  precision
})

/**
 * No limit on skipped rows for pairs generated by the world's models. The base model was pretrained on dialogues in the chat format, so in the first rounds
 * answers in a quarter of the pairs contain its tags. This is a property of the models, not a fault in the data.
 */
export const ownPairs = { skipped: 1 }
