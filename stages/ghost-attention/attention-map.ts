/**
 * Attention maps of a dialogue with an instruction, without Ghost Attention and with it (Llama 2 §3.3, figure 10): the maximum attention weight across the network, with neighbouring
 * tokens binned. Both models read the same dialogue, which has the instruction only in its first turn.
 *
 * The report also has numbers: how much each answer attends to the instruction.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import { greatestAttention } from "../../models/attention-map.ts"
import { ChatError } from "../../models/chat-format.ts"
import { loadPolicy, type LoadedPolicy } from "../../models/checkpoint.ts"
import { forwardBytes } from "../../models/memory.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt, hyperNumbers, neutral } from "../../schemas/hyper.ts"
import { report } from "../../schemas/report.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, need, unknownSize } from "../common/cost/size.ts"
import { frozen, languageModel, reading } from "../common/cost/work.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { samplingPrecision } from "../common/sampling.ts"
import { attentionTo, binnedMap, dialogueParts } from "./dialogue-parts.ts"
import { dialogueTo, type GhostSample, GhostSamples } from "./sample.ts"

const models = ["without", "with"] as const
type Which = (typeof models)[number]

const AttentionMap = Schema.Struct({
  /** Id of the dialogue shown, and its instruction. */
  dialogue: Schema.String,
  instruction: Schema.String,
  tokens: Schema.Number,
  tokensPerBin: Schema.Number,
  /** The parts of the dialogue, in order: tokens from `from` up to, excluding, `to`. */
  parts: Schema.Array(
    Schema.Struct({
      kind: Schema.Literals(["instruction", "question", "answer"]),
      turn: Schema.Number,
      from: Schema.Number,
      to: Schema.Number
    })
  ),
  maps: Schema.Array(
    Schema.Struct({
      model: Schema.Literals(models),
      layers: Schema.Number,
      heads: Schema.Number,
      /** Row by row, the maximum weight in [0, 1] from a bin of tokens to each bin up to itself. */
      rows: Schema.Array(Schema.Array(Schema.Number))
    })
  ),
  /** The maximum weight on any token of the instruction, averaged over the positions that predict an answer's tokens; empty if the instruction's tokens are not known. */
  byAnswer: Schema.Array(Schema.Struct({ turn: Schema.Number, without: Schema.Number, with: Schema.Number }))
})
export type AttentionMap = typeof AttentionMap.Type
export const AttentionMapReport = report(AttentionMap, "attention-map/1")

/** A dialogue or a model for which no map can be computed. */
export class AttentionMapError extends ExplainedError<AttentionMapError>()("AttentionMapError") {}

const AttentionMapConfig = Schema.Struct({
  dialogue: hyper("", "id of the dialogue; empty: the first of those with the most answers"),
  bins: hyperInt(32, "maximum number of bins of neighbouring tokens; figure 10 bins them", { min: 2, max: 64 }),
  layers: hyperNumbers("layers to include, counted from 0; empty: all, since figure 10 uses the maximum across the network", { min: 0 }),
  heads: hyperNumbers("query heads to include, counted from 0; empty: all", { min: 0 }),
  maxWeights: neutral(
    hyper(1e11, "maximum number of attention weights to compute per model: layers x heads x tokens x tokens", { min: 1 }),
    "it decides whether there is a map, not which one"
  ),
  precision: samplingPrecision
})
type AttentionMapConfig = typeof AttentionMapConfig.Type

/** The dialogue to show. */
const chosen = Effect.fnUntraced(function* (samples: ReadonlyArray<GhostSample>, dialogue: string) {
  const some = samples.filter(({ answers, id }) => answers.length > 0 && (dialogue === "" || id === dialogue))
  if (some.length > 0) return some.reduce((most, one) => (one.answers.length > most.answers.length ? one : most))
  if (dialogue === "") return yield* EmptyDatasetError.of("show the attention in", `${samples.length} dialogues without answers`)
  const found = samples.find(({ id }) => id === dialogue)
  return yield* AttentionMapError.of({
    doing: `Showing the attention in the dialogue ${JSON.stringify(dialogue)}`,
    expected: "a sampled dialogue with an answer",
    found: found === undefined ? `no dialogue with that id among ${samples.length}` : "a dialogue without answers",
    hint: "Set dialogue to another id, or leave it empty to show the dialogue with the most answers."
  })
})

/** The layers and heads to include. Fails for those that the model does not have, and if the dialogue or the model is too large. */
const selectionOf = Effect.fnUntraced(function* (
  { model }: LoadedPolicy,
  which: Which,
  { id, length }: { readonly id: string; readonly length: number },
  config: AttentionMapConfig
) {
  const shape = model.config
  const doing = `Showing the attention of the model ${which} Ghost Attention in the dialogue ${JSON.stringify(id)}`
  const refuse = (expected: string, found: string, hint: string) => AttentionMapError.of({ doing, expected, found, hint })
  const indices = (given: ReadonlyArray<number>, count: number) => (given.length > 0 ? given : Array.from({ length: count }, (_, i) => i))
  const [layers, heads] = [indices(config.layers, shape.layers), indices(config.heads, shape.heads)]
  for (const [name, some] of [["layers", layers] as const, ["heads", heads] as const]) {
    const wrong = some.find((index) => !Number.isInteger(index) || index >= shape[name])
    if (wrong !== undefined)
      return yield* refuse(
        `${name} from 0 to ${shape[name] - 1}`,
        String(wrong),
        `Set ${name} to indices that this model has, or remove it.`
      )
  }
  if (length > shape.maxPositions)
    return yield* refuse(
      `at most the ${shape.maxPositions} tokens of its context`,
      String(length),
      "Set dialogue to a shorter one, or use a model with a longer context."
    )
  const weights = layers.length * heads.length * length * length
  const count = (value: number) => value.toLocaleString("en-US")
  if (weights > config.maxWeights)
    return yield* refuse(
      `at most ${count(config.maxWeights)} attention weights`,
      `${count(weights)}: ${layers.length} layers x ${heads.length} heads x ${length} x ${length} tokens`,
      "Use a shorter dialogue or fewer layers or heads, or raise maxWeights."
    )
  return { layers, heads }
})

export const attentionMap = Stage.make("attention-map", {
  description: "figure 10: attention maps of the same dialogue for a model without Ghost Attention and one with it",
  config: AttentionMapConfig,
  inputs: { without: Policy, with: Policy, samples: GhostSamples },
  output: AttentionMapReport,
  seeded: false,
  resources: { tensors: true },
  run: Effect.fn("attention-map")(function* ({ config, inputs, output, device, progress }) {
    const sample = yield* chosen(yield* readRows(inputs.samples, GhostSamples), config.dialogue)
    const { answers, id, instruction } = sample
    const messages = [
      ...dialogueTo(sample, answers, answers.length - 1, instruction, "first turn"),
      { role: "assistant" as const, content: answers.at(-1)! }
    ]
    const read = Effect.fnUntraced(function* (which: Which) {
      yield* progress({ message: `reading the dialogue, ${which} Ghost Attention` })
      const loaded = yield* loadPolicy(inputs[which], { device, dtype: config.precision })
      const found = dialogueParts(loaded.tokenizer, messages, instruction)
      if (found instanceof ChatError) return yield* found
      const length = found.tokens.length
      const selection = yield* selectionOf(loaded, which, { id, length }, config)
      const map = greatestAttention(loaded.model, found.tokens, selection)
      Object.values(loaded.model.parameters).forEach((weight) => weight.free())
      const wrong = map.findIndex((weight) => !Number.isFinite(weight))
      if (wrong !== -1)
        return yield* AttentionMapError.of({
          doing: `Showing the attention of the model ${which} Ghost Attention`,
          expected: "finite weights",
          found: `${map[wrong]!} at token ${Math.floor(wrong / length)}`,
          hint: "The model's weights are damaged or have diverged: train it again with a lower learning rate."
        })
      return { ...found, ...selection, map, which }
    })
    const [before, after] = [yield* read("without"), yield* read("with")]
    if (before.tokens.join() !== after.tokens.join())
      return yield* AttentionMapError.of({
        doing: `Comparing the attention of two models in the dialogue ${JSON.stringify(id)}`,
        expected: "the same tokens for both",
        found: `${before.tokens.length} and ${after.tokens.length} tokens, which differ`,
        hint: "Compare models with the same tokenizer and chat format."
      })
    const { parts, tokens } = before
    const size = Math.ceil(tokens.length / config.bins)
    const target = parts.find(({ kind }) => kind === "instruction")
    const rounded = (value: number) => Math.round(value * 1e4) / 1e4
    return yield* writeReport(output, {
      ...{ dialogue: id, instruction, tokens: tokens.length, tokensPerBin: size, parts },
      maps: [before, after].map(({ heads, layers, map, which }) => ({
        ...{ model: which, layers: layers.length, heads: heads.length },
        rows: binnedMap(map, tokens.length, size).map((row) => row.map(rounded))
      })),
      byAnswer:
        target === undefined
          ? []
          : parts
              .filter(({ kind }) => kind === "answer")
              .map((answer) => ({
                turn: answer.turn,
                without: attentionTo(before.map, tokens.length, answer, target),
                with: attentionTo(after.map, tokens.length, answer, target)
              }))
    })
  })
})

export const attentionMapCost = costOf(attentionMap, {
  size: () => unknownSize,
  cost: ({ config, inputs }) => {
    const { precision } = config
    const question = dialogueLength(inputs.samples, "the dialogues")
    const length = need(inputs.samples.turns, "how many turns the dialogues have") * question
    const [first, second] = [languageModel(inputs.without, "the model without"), languageModel(inputs.with, "the model with it")]
    return {
      work: [reading("without", first, precision, 1, length), reading("with", second, precision, 1, length)],
      memory: frozen(first, precision, forwardBytes(first, precision, length) + 12 * length * length)
    }
  }
})
