/** Sizes and choices of the recipe on the small world (recipe.ts), and what follows from them alone. */
import * as Schema from "effect/Schema"
import { PipelineError } from "../../runtime/errors.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"

/** What can be left out, to see what it is worth (docs/ablations.md). */
export const parts = ["nothing", "margin", "ppo", "prior-versions", "safety-model", "distillation", "ghost-attention"] as const

/** Sizes that end within minutes on two cores. */
export const worldParams = {
  rounds: hyperInt(5, "of pairs, reward models and rejection sampling; §3.2.3: 5", { min: 1 }),
  multiTurn: hyper(
    0,
    "share of a round's helpfulness dialogues that go on in the next round's pairs, with the chosen response (§3.2.1, A.3.1)",
    {
      min: 0,
      max: 1
    }
  ),
  temperatures: hyper(
    "fixed",
    "rejection sampling's from the second round on: always the same, or the best of a sweep of the round before (§3.2.3)",
    ["fixed", "swept"]
  ),
  evaluation: hyper(
    "short",
    "short; or full: Self-BLEU by temperature (figure 21), a general reward model as guard (§3.4.1), a safety classifier and violations by it, red teaming (§4.3), violations over several turns (figure 18)",
    ["short", "full"]
  ),
  without: hyper(
    "nothing",
    "a step to leave out; without the safety model there is no distillation either, since it keeps what that model prefers (§4.2.4)",
    parts
  ),
  dim: hyperInt(96, "width of the model", { min: 2 }),
  layers: hyperInt(3, "its blocks", { min: 1 }),
  heads: hyperInt(4, "its attention heads", { min: 1 }),
  vocabSize: hyperInt(600, "of the tokenizer", { min: 300 }),
  contextLength: hyperInt(384, "tokens it can attend over", { min: 256 }),
  sequenceLength: hyperInt(128, "tokens a sequence of pretraining; twice as many when fine-tuning", { min: 128 }),
  texts: hyperInt(8000, "dialogues to pretrain on", { min: 100 }),
  pretrainSteps: hyperInt(1200, "optimiser steps of pretraining", { min: 1 }),
  pretrainBatch: hyperInt(8, "sequences a step of pretraining", { min: 1 }),
  pretrainLearningRate: hyper(3e-3, "its peak learning rate", { min: 0 }),
  bootstrap: hyperInt(200, "careless public dialogues of SFT's first step", { min: 1 }),
  demonstrations: hyperInt(400, "annotated dialogues of SFT's second step", { min: 1 }),
  learningRate: hyper(1e-3, "peak, of every fine-tuning; the paper's 2e-5 is for 7B and more", { min: 0 }),
  sftSteps: hyperInt(24, "optimiser steps of SFT's second step; half as many of its first", { min: 2 }),
  steps: hyperInt(60, "optimiser steps of each version's fine-tuning from the base model", { min: 1 }),
  batchSize: hyperInt(6, "sequences a step of fine-tuning", { min: 1 }),
  pairs: hyperInt(300, "helpfulness prompts a round that pairs are collected for, and as many safety prompts", { min: 10 }),
  testPairs: hyperInt(250, "prompts of all rounds that held-out helpfulness pairs are collected for, and as many of safety pairs", {
    min: 10
  }),
  noise: hyper(0.06, "of the annotators: the chance of a wrong choice is exp(-difference / noise) / 2", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak; the paper's 1e-5 is for 7B and more", { min: 0 }),
  rewardBatch: hyperInt(16, "pairs a step of the reward models", { min: 1 }),
  prompts: hyperInt(400, "helpfulness prompts that rejection sampling and PPO answer, and half as many safety prompts", { min: 2 }),
  k: hyperInt(6, "answers a prompt", { min: 1 }),
  temperature: hyper(1, "of rejection sampling; the paper's 1.2 to 1.3 is for larger models", { min: 0 }),
  ppoFrom: hyperInt(
    5,
    'the first round whose version has PPO on top of rejection sampling; the last always has. §3.2.3: "Until RLHF (V4), we used only Rejection Sampling fine-tuning, and after that, we combined the two sequentially"',
    { min: 1 }
  ),
  ppoUse: hyper(
    "samples and pairs",
    "with ppoFrom before the last round: whether the next round draws its pairs from the version after PPO too, or its samples alone",
    ["samples and pairs", "samples"]
  ),
  ppoIterations: hyperInt(15, "batches of PPO", { min: 1 }),
  ppoBatch: hyperInt(96, "answers a batch", { min: 1 }),
  ppoLearningRate: hyper(5e-5, "constant; the paper's 1e-6 is for 7B and more", { min: 0 }),
  valueLearningRate: hyper(1e-3, "of the value model", { min: 0 }),
  beta: hyper(0.1, "weight of the KL penalty; the paper's 0.01 is for 7B and more", { min: 0 }),
  dialogues: hyperInt(100, "dialogues of Ghost Attention, and as many held-out ones", { min: 4 }),
  heldOut: hyperInt(250, "held-out helpfulness prompts that versions are judged on, and as many safety prompts", { min: 10 }),
  answers: hyperInt(1, "to a held-out prompt by each version; several make its figures steadier", { min: 1 }),
  attacks: hyperInt(
    100,
    "new prompts that the red team tries on each version (§4.3), and dialogues of several turns; of the full evaluation",
    {
      min: 1
    }
  ),
  maxNewTokens: hyperInt(40, "tokens an answer", { min: 8 }),
  inferenceBatch: hyperInt(64, "sequences decoded or scored at once", { min: 1 }),
  precision: hyper("float32", "of every model", ["float32", "bfloat16"])
}

const WorldParams = Schema.Struct(worldParams)
export type WorldParams = typeof WorldParams.Type

/**
 * Throws a PipelineError for sizes that do not fit one another, before anything runs. What a model's own sizes must meet, its stage checks; `isOwn`: the
 * model is pretrained here, and not given by the user with a context of its own.
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
    refuse(
      `maxNewTokens ${maxNewTokens} leaves no room for a prompt in the model's context: give fewer than contextLength ${contextLength}.`
    )
  if (testPairs < rounds) refuse(`testPairs ${testPairs} are fewer than rounds ${rounds}, which share them: give one a round at least.`)
}

/** Whether the recipe has this step. */
export const has = ({ without }: WorldParams, part: (typeof parts)[number]): boolean => without !== part

/** Whether a round's version has PPO on top of it. */
export const hasPpo = (round: number, params: WorldParams): boolean =>
  has(params, "ppo") && (round >= params.ppoFrom || round === params.rounds)

/** How every model answers, and how rows are scored. */
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
 * The limit of what is skipped where pairs are of the world's own models' answers. The base model was pretrained on dialogues in the chat format, so answers of
 * the first rounds hold its tags: a quarter of the pairs. That is how the models are, no fault of the data.
 */
export const ownPairs = { skipped: 1 }
