/** Stages whose ranks are on several nodes: one that can fail in several ways, one that saves a checkpoint after each step, and one that trains a model. */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import { sentences } from "../resume/stages.ts"
import { misbehaving } from "../stages/misbehaving.ts"
import { march } from "./march.ts"

const Params = Schema.Struct({
  how: hyper("behaves", "what one rank does"),
  which: hyperInt(1, "the rank that does it", { min: 0 }),
  pause: hyperInt(0, "ms of each step of the march", { min: 0 })
})

export default Pipeline.make("nodes", { params: Params }, ({ how, pause, which }) => {
  const texts = sentences({})
  const model = { dim: 32, layers: 2, heads: 2, kvHeads: 2, ffn: 64, contextLength: 128, sequenceLength: 48 }
  const training = { steps: 10, batchSize: 4, microBatchSize: 2, warmupSteps: 5, learningRate: 1e-3 }
  return {
    sums: misbehaving({}, { how: how as "behaves", which }).named("sums"),
    marched: march({}, { pause }).named("marched"),
    trained: pretrain({ tokenizer: tokenizer({ texts }, { vocabSize: 290 }), texts }, { ...model, ...training }).named("trained")
  }
})
