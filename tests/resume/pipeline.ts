/** A training stage and a sampling stage, of sixty steps each. */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import { questions, sentences } from "./stages.ts"

export default Pipeline.make("resume", { params: Schema.Struct({}) }, () => {
  const texts = sentences({})
  const policy = pretrain(
    { tokenizer: tokenizer({ texts }, { vocabSize: 290 }), texts },
    {
      ...{ dim: 32, layers: 2, heads: 2, kvHeads: 2, ffn: 64, contextLength: 128, sequenceLength: 48 },
      ...{ steps: 60, batchSize: 4, microBatchSize: 2, warmupSteps: 5, learningRate: 1e-3 }
    }
  )
  const completions = sample({ policy, prompts: questions({}) }, { k: 3, maxNewTokens: 24, batchSize: 2 })
  return { policy, completions }
})
