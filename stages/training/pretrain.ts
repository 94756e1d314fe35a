/**
 * Pretraining (Llama 2 §2.2): next-token prediction on running text. Documents, each with BOS and EOS, are concatenated and cut into sequences of equal
 * length. It creates the small base models of runs that start from scratch.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { streamRows } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import { type LlamaConfig, llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import type { CostedModel } from "../../models/memory.ts"
import { checkPrecision } from "../../models/weights.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { TokenizerModel } from "../../schemas/tokenizer.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, rowCount, type Size, sized, unknownSize } from "../common/cost/size.ts"
import { languageModel } from "../common/cost/work.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { batchesOf, inOrder, languageModelLoss, type PackedRow, type Sequence } from "../common/sequences.ts"
import { TokenStore } from "../common/token-store.ts"
import { fitOneModel } from "./advice.ts"
import { trainingCost, withHeldOut } from "./cost.ts"
import { microBatchField, recomputeField } from "./fit.ts"
import { evaluating, heldOutFields, patienceNeedsHeldOut, splitHeldOut } from "./held-out.ts"
import { lossesOfRank } from "./micro-batches.ts"
import { precision, train, type TrainingBatch, trainingCheckpoints, trainingMetrics } from "./train.ts"

/** Inconsistent sizes, rejected before the run starts. */
const misfits = ({
  contextLength,
  dim,
  heads,
  kvHeads,
  sequenceLength
}: Readonly<Record<"contextLength" | "dim" | "heads" | "kvHeads" | "sequenceLength", number>>): ReadonlyArray<Schema.FilterIssue> => {
  // Rotary embeddings need an even head dimension.
  const below = 2 * heads * Math.floor(dim / (2 * heads))
  const dims = below === 0 ? `${2 * heads}` : `${below} or ${below + 2 * heads}`
  const divisors = dim % 2 === 0 ? `, or heads to ${nearestDivisors(dim / 2, heads)}` : ""
  const found: Array<readonly [boolean, path: string, issue: string]> = [
    [dim % heads !== 0, "dim", `${dim} is not a multiple of heads ${heads}: set dim to ${dims}${divisors}`],
    [
      dim % heads === 0 && (dim / heads) % 2 !== 0,
      "dim",
      `${dim} / heads ${heads} is ${dim / heads}, but rotary embeddings need an even head dimension: set dim to ${dims}${divisors}`
    ],
    [heads % kvHeads !== 0, "kvHeads", `${kvHeads} does not divide heads ${heads}: set kvHeads to ${nearestDivisors(heads, kvHeads)}`],
    [
      sequenceLength > contextLength,
      "sequenceLength",
      `${sequenceLength} is more than contextLength ${contextLength}: lower sequenceLength or raise contextLength`
    ]
  ]
  return found.flatMap(([isWrong, path, issue]) => (isWrong ? [{ path: [path], issue }] : []))
}

/** The divisors of `n` just below and above `near`, in words: "4 or 8". Only those up to 1024 are considered. */
const nearestDivisors = (n: number, near: number): string => {
  const divisors = Array.from({ length: Math.min(n, 1024) }, (_, i) => i + 1).filter((divisor) => n % divisor === 0)
  return [divisors.findLast((divisor) => divisor < near), divisors.find((divisor) => divisor > near)]
    .filter((divisor) => divisor !== undefined)
    .join(" or ")
}

/** Sequences per micro-batch on the CPU. */
const defaultSequences = 16

const PretrainConfig = Schema.Struct({
  dim: hyperInt(128, "width of the model", { min: 1 }),
  layers: hyperInt(4, "number of transformer blocks", { min: 1 }),
  heads: hyperInt(4, "number of attention heads", { min: 1 }),
  kvHeads: hyperInt(4, "number of key and value heads; §2.2: 8 at 34B and 70B, the same as heads for smaller models", { min: 1 }),
  ffn: hyperInt(352, "width of the feed-forward block; about 8/3 of dim", { min: 1 }),
  tiedEmbeddings: hyper(false, "whether the output layer shares its weights with the embedding table; Llama 2's does not"),
  contextLength: hyperInt(512, "context length of the model in tokens; §2.2: 4096", { min: 2 }),
  sequenceLength: hyperInt(256, "tokens per training sequence, at most contextLength; §2.2: 4096", { min: 2 }),
  steps: hyperInt(500, "number of optimiser steps", { min: 1 }),
  batchSize: hyperInt(16, "sequences per optimiser step; §2.2: 4M tokens", { min: 1 }),
  microBatchSize: microBatchField("sequences", defaultSequences),
  recompute: recomputeField,
  learningRate: hyper(3e-4, "peak learning rate; §2.2, table 1: 3e-4 (7B, 13B), 1.5e-4 (34B, 70B); small models tolerate more", { min: 0 }),
  finalLearningRate: hyper(0.1, "final learning rate as a fraction of the peak; §2.2: 10%", { min: 0, max: 1 }),
  warmupSteps: hyperInt(50, "steps of linear learning rate warm-up; §2.2: 2000", { min: 0 }),
  weightDecay: hyper(0.1, "AdamW's weight decay; §2.2: 0.1", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm; larger gradients are scaled down; §2.2: 1.0", { min: 0 }),
  precision,
  ...heldOutFields
}).check(Schema.makeFilter(misfits), patienceNeedsHeldOut)

/** Adds texts to a store, each as BOS text EOS. */
export const addDocuments = (store: TokenStore, tokenizer: Tokenizer, texts: ReadonlyArray<string>): void => {
  const buffer = new TokenBuffer()
  for (const text of texts) {
    buffer.length = 0
    if (tokenizer.bosId !== undefined) buffer.push(tokenizer.bosId)
    tokenizer.append(text, buffer)
    buffer.push(tokenizer.eosId)
    store.add(buffer, [])
  }
}

/**
 * The selected documents concatenated and cut into rows of `length`, each created on demand; consecutive rows share one token, so that every token
 * except the first is predicted once. An incomplete last row is left out.
 */
export const joinDocuments = (documents: TokenStore, which: Uint32Array, length: number): Sequence<PackedRow> => {
  /** The start of each document, and the end of the last. */
  const starts = new Float64Array(which.length + 1)
  which.forEach((document, i) => (starts[i + 1] = starts[i]! + documents.sizeOf(document)))
  const total = starts[which.length]!
  const lossMask = new Uint8Array(length).fill(1)
  lossMask[0] = 0
  const segments = new Int32Array(length)
  const row = (start: number): PackedRow => {
    const tokens = new Int32Array(length)
    let place = lastAtMost(starts, start)
    for (let done = 0; done < length; place++) {
      const from = start + done - starts[place]!
      const part = documents.tokens(which[place]!, from, Math.min(documents.sizeOf(which[place]!), from + length - done))
      tokens.set(part, done)
      done += part.length
    }
    return { tokens, lossMask, segments }
  }
  const count = total < length ? 0 : 1 + Math.floor((total - length) / (length - 1))
  return { length: count, at: (index) => (index < count ? row(index * (length - 1)) : undefined) }
}

/** The index of the last of the increasing numbers that is at most `value`; the first one must be. */
const lastAtMost = (increasing: Float64Array, value: number): number => {
  let [low, high] = [0, increasing.length]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (increasing[middle]! <= value) low = middle
    else high = middle
  }
  return low
}

const shapeOf = (config: typeof PretrainConfig.Type, vocabSize: number): LlamaConfig => {
  const { contextLength: maxPositions, dim, ffn, heads, kvHeads, layers, tiedEmbeddings } = config
  return llamaConfig({ vocabSize, dim, layers, heads, kvHeads, ffn, maxPositions, tiedEmbeddings })
}

const fitSettings = (config: typeof PretrainConfig.Type) => ({ microBatch: config.microBatchSize, recompute: config.recompute })
/** The properties of a model's training steps that determine their memory. */
const stepsOf = (config: typeof PretrainConfig.Type, model: CostedModel) => {
  const { batchSize: rows, patience, precision, sequenceLength: longest } = config
  return { model, precision, rows, longest, keepsBest: patience > 0 }
}

export const pretrain = Stage.make("pretrain", {
  description: "§2.2 pretrains a Llama from scratch on running text",
  config: PretrainConfig,
  inputs: { tokenizer: TokenizerModel, texts: Texts },
  output: Policy,
  inherits: { tokenizer: "tokenizer" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("pretrain")(function* ({ config, inputs, output, seed, device, progress, checkpoints, recorded }) {
    const tokenizer = yield* loadTokenizer(inputs.tokenizer.path)
    const documents = yield* TokenStore.scoped({ vocabSize: tokenizer.vocabSize, folder: output.path })
    yield* Stream.runForEachArray(streamRows(inputs.texts, Texts), (texts) =>
      Effect.sync(() =>
        addDocuments(
          documents,
          tokenizer,
          texts.map(({ text }) => text)
        )
      )
    )
    const length = config.sequenceLength + 1
    const notFilled = (what: string, count: number) =>
      EmptyDatasetError.of(
        what,
        `${count} texts that do not fill one sequence of ${length} tokens`,
        "Use more texts, or lower sequenceLength."
      )
    const split = yield* splitHeldOut(documents.length, config.heldOut, seed)
    const rows = joinDocuments(documents, split.training, length)
    const heldOut = joinDocuments(documents, split.heldOut, length)
    if (rows.length === 0) return yield* notFilled("pretrain on", split.training.length)
    if (heldOut.length === 0 && split.heldOut.length > 0) return yield* notFilled("measure the held-out loss on", split.heldOut.length)
    yield* checkPrecision({ device, dtype: config.precision }, "Pretraining")
    const model = initLlama(shapeOf(config, tokenizer.vocabSize), { seed, device, dtype: config.precision })
    const { batchSize, steps } = config
    const fit = yield* fitOneModel(
      fitSettings(config),
      { device, rowsOnCpu: defaultSequences },
      stepsOf(config, { config: model.config, scalarHead: false })
    )
    function* pass(ordered: Sequence<PackedRow>): Generator<TrainingBatch> {
      for (const batch of batchesOf(ordered, batchSize)) {
        yield {
          count: batch.length * (length - 1),
          tokens: batch.length * (length - 1),
          parts: (microBatch) =>
            lossesOfRank(
              batch,
              microBatch,
              ({ tokens }) => tokens.length,
              (part) => languageModelLoss(model, part, { device, isolate: false })
            )
        }
      }
    }
    const result = yield* train({
      ...{ fit, recorded, parameters: model.parameters },
      checkpoints: trainingCheckpoints(checkpoints, output, { model, tokenizer }),
      batches: (function* () {
        for (let epoch = 0; ; epoch++) yield* pass(inOrder(rows, new Random(seed, "pretrain", "epoch", epoch).permutation(rows.length)))
      })(),
      heldOut: evaluating(split.heldOut, config, () => pass(heldOut)),
      steps,
      schedule: cosineSchedule({ peak: config.learningRate, steps, warmup: config.warmupSteps, finalFraction: config.finalLearningRate }),
      maxNorm: config.maxNorm,
      weightDecay: config.weightDecay,
      progress
    })
    return yield* saveCheckpoint(output, { model, tokenizer, metrics: { ...trainingMetrics(result), tokens: rows.length * (length - 1) } })
  }, Effect.scoped)
})

const sizeOf = (config: typeof PretrainConfig.Type, { vocabSize }: Size): Size =>
  sized(unknownSize, { model: Number.isNaN(vocabSize) ? undefined : shapeOf(config, vocabSize) })
export const pretrainCost = costOf(pretrain, {
  size: ({ config, inputs }) => sizeOf(config, inputs.tokenizer),
  cost: ({ config, deviceMemory, inputs, spread }) => {
    const { batchSize, precision, sequenceLength: length, steps } = config
    const model = languageModel(sizeOf(config, inputs.tokenizer), "the vocabulary")
    const cost = trainingCost(
      { ...stepsOf(config, model), fit: fitSettings(config), spread },
      { rows: steps * batchSize, length },
      deviceMemory
    )
    const rows = () => (config.heldOut * rowCount(inputs.texts, "texts") * dialogueLength(inputs.texts, "the texts")) / length
    return withHeldOut(cost, config, { model, precision, rows, length, steps })
  }
})
