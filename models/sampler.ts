/**
 * Batched generation: greedy, or sampled with temperature, top-k and top-p. Each sequence stops at its end-of-sequence token and leaves the
 * batch. Each token's log-probability is that under the distribution that it was drawn from: softmax(logits / temperature), after top-k and top-p.
 *
 * The random numbers of a sequence depend only on its own seed, not on its batch or its position in it.
 */
import { Random } from "../engine/random.ts"
import { isFused } from "../engine/fused.ts"
import { aten, noGrad, scoped, tensor, type Tensor } from "../engine/tensor.ts"
import { gpuKernelsMissing } from "../engine/device.ts"
import { BatchInvarianceError } from "./batch-invariant.ts"
import { Decoder } from "./decoder.ts"
import { decodeOnGpu, decodesOnGpu } from "./gpu-decoder.ts"
import type { Llama } from "./llama.ts"
import { distributionLogits, type Restriction } from "./restrict.ts"

export interface GenerateOptions extends Restriction {
  readonly maxNewTokens: number
  /** One seed per sequence. Required unless decoding is greedy. */
  readonly seeds?: ReadonlyArray<number>
  /** The token or tokens that end an answer; undefined: never stop early. */
  readonly eosId: number | ReadonlyArray<number> | undefined
  /** Number of sequences decoded in parallel; by default all of them. */
  readonly batchSize?: number
  /**
   * Whether a sequence's tokens and log-probabilities must not depend, bit for bit, on the other prompts and on batchSize. `generate` throws BatchInvarianceError where they
   * would: without the GPU decoder, everywhere except in float32 on the CPU. The GPU decoder then computes a fixed number of rows per step. Default: false.
   */
  readonly batchInvariant?: boolean
  /** Pads shorter prompts on the left; always masked. */
  readonly padId: number
}

export interface Generated {
  /** Includes the end-of-sequence token if it was reached. */
  readonly tokens: ReadonlyArray<number>
  readonly logProbabilities: ReadonlyArray<number>
  /** Whether the answer ended with an end-of-sequence token. */
  readonly finished: boolean
}

/** The model's logits are not finite (NaN): its weights are damaged or its training diverged. */
export class NotFiniteLogitsError extends Error {
  readonly _tag = "NotFiniteLogitsError"
  readonly isRetryable = false
}
export const notFiniteLogits = (doing: string, where: string): NotFiniteLogitsError =>
  new NotFiniteLogitsError(
    `${doing}: the model's logits are not numbers (${where}); its weights are damaged or its training diverged; use an earlier checkpoint, or train it again with a lower learning rate`
  )

/** A batch is compacted once this share of it has finished: copying the cache whenever a sequence ends would cost more than it saves. */
const compactAt = 1 / 8

/** How many prompts to pass in one call: on a GPU, where a free slot is refilled with the next prompt, several times the number decoded in parallel. */
export const promptsPerCall = (model: Llama, batchSize: number): number => (decodesOnGpu(model) ? 8 : 1) * batchSize

/** Throws RangeError for an invalid option, naming it. */
export const checkOptions = (
  { maxNewTokens, temperature, topK = 0, topP = 1 }: Restriction & Pick<GenerateOptions, "maxNewTokens">,
  doing: string
): void => {
  const reject = (name: string, expected: string, found: number) => {
    throw new RangeError(`${doing}: ${name} must be ${expected}, got ${found}`)
  }
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) reject("maxNewTokens", "an integer of 0 or more", maxNewTokens)
  if (!(temperature >= 0 && temperature < Infinity)) reject("temperature", "a number of 0 or more", temperature)
  if (!Number.isInteger(topK) || topK < 0) reject("topK", "an integer of 0 or more", topK)
  if (!(topP >= 0 && topP <= 1)) reject("topP", "between 0 and 1", topP)
}

/**
 * Continues each prompt. Throws RangeError for an option out of range, an empty prompt, or a prompt that leaves no space in the model's context;
 * BatchInvarianceError when the answers must not depend on the batch, but would; NotFiniteLogitsError when the model's logits are not finite.
 */
export const generate = (model: Llama, prompts: ReadonlyArray<ReadonlyArray<number>>, options: GenerateOptions): Array<Generated> => {
  const { batchSize = 1, maxNewTokens } = options
  const stops = new Set([options.eosId ?? []].flat())
  checkOptions(options, "generate")
  if (!Number.isInteger(batchSize) || batchSize < 1)
    throw new RangeError(`generate: batchSize must be an integer of 1 or more, got ${batchSize}`)
  if (prompts.length === 0 || maxNewTokens === 0) return prompts.map(() => ({ tokens: [], logProbabilities: [], finished: false }))
  const longest = Math.max(...prompts.map((prompt) => prompt.length))
  if (prompts.some((prompt) => prompt.length === 0))
    throw new RangeError("generate: a prompt has no tokens; start it with the beginning-of-sequence token")
  if (longest + maxNewTokens > model.config.maxPositions) {
    throw new RangeError(
      `generate: a prompt of ${longest} tokens and ${maxNewTokens} new tokens exceed the model's context of ${model.config.maxPositions}; shorten the prompt or reduce maxNewTokens`
    )
  }
  const greedy = options.temperature === 0
  if (!greedy && options.seeds?.length !== prompts.length)
    throw new RangeError(`generate: sampling ${prompts.length} sequences needs one seed per sequence, got ${options.seeds?.length ?? 0}`)
  if (decodesOnGpu(model, longest)) return generateOnGpu(model, prompts, options, stops)
  // Our CPU kernels compute each row separately, in the same order whatever the batch and its padding.
  if (options.batchInvariant === true && !isFused(model.parameter("model.norm.weight"))) throw dependsOnBatch(model, longest)
  const perBatch = options.batchSize ?? prompts.length
  return Array.from({ length: Math.ceil(prompts.length / perBatch) }, (_, i) => i * perBatch).flatMap((first) =>
    generateBatch(
      model,
      prompts.slice(first, first + perBatch),
      { ...options, seeds: options.seeds?.slice(first, first + perBatch) },
      stops,
      first
    )
  )
}

const dependsOnBatch = ({ device, dtype }: Llama, longest: number): BatchInvarianceError => {
  const [found, hint] =
    device === "cpu"
      ? [
          `a ${dtype} model on the CPU${dtype === "float32" ? " with our kernels switched off" : ""}`,
          dtype === "float32" ? "Switch them on" : "Use float32 or a GPU"
        ]
      : gpuKernelsMissing() === undefined
        ? [
            `a ${dtype} model on a GPU and a prompt of ${longest} tokens`,
            "Use a head size of 16, 32, 64, 128 or 256, widths that are multiples of 8, at most 262,144 tokens in the vocabulary and prompts within the sliding window"
          ]
        : [`a GPU without our kernels: ${gpuKernelsMissing()}`, "Install NVRTC (caravan doctor)"]
  return new BatchInvarianceError(
    `generate: batchInvariant needs our float32 kernels on the CPU, or our GPU kernels and a model and prompts that the GPU decoder supports. Found ${found}. ${hint}, or turn batchInvariant off.`
  )
}

/** Generates one batch without the GPU decoder. `first` is the index of the batch's first sequence, for messages. */
const generateBatch = (
  model: Llama,
  prompts: ReadonlyArray<ReadonlyArray<number>>,
  options: Omit<GenerateOptions, "seeds"> & { readonly seeds: ReadonlyArray<number> | undefined },
  stops: ReadonlySet<number>,
  first: number
): Array<Generated> => {
  const { maxNewTokens, padId } = options
  const longest = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0)
  const greedy = options.temperature === 0
  const randoms = greedy ? [] : options.seeds!.map((seed) => new Random(seed, "sampling"))
  const out = prompts.map(() => ({ tokens: [] as Array<number>, logProbabilities: [] as Array<number>, finished: false }))
  const { device } = model
  const padded = prompts.some((prompt) => prompt.length !== longest)

  scoped(() =>
    noGrad(() => {
      const ids = new Int32Array(prompts.length * longest).fill(padId)
      const mask = new Int32Array(ids.length)
      prompts.forEach((prompt, i) => {
        const at = (i + 1) * longest - prompt.length
        ids.set(prompt, at)
        mask.fill(1, at, (i + 1) * longest)
      })
      const shape = [prompts.length, longest]
      const decoder = new Decoder(model)
      let active = prompts.map((_, i) => i)
      let next = scoped(() => {
        const logits = decoder.prefill(
          tensor(ids, { shape, dtype: "int64", device }),
          padded ? tensor(mask, { shape, dtype: "int64", device }) : undefined,
          longest + maxNewTokens
        )
        return { draw: draw(logits, active, randoms, options), state: decoder.state() }
      }).draw
      for (let step = 1; ; step++) {
        active.forEach((sequence, row) => {
          const result = out[sequence]!
          if (result.finished) return
          if (!Number.isFinite(next.logProbabilities[row])) throw notFiniteLogits("generate", `sequence ${first + sequence}, token ${step}`)
          result.tokens.push(next.tokens[row]!)
          result.logProbabilities.push(next.logProbabilities[row]!)
          result.finished = stops.has(next.tokens[row]!)
        })
        const running = active.filter((sequence) => !out[sequence]!.finished)
        if (running.length === 0 || step === maxNewTokens) return
        let tokens = next.tokens
        if (active.length - running.length >= Math.max(1, active.length * compactAt)) {
          const rows = active.flatMap((sequence, row) => (out[sequence]!.finished ? [] : [row]))
          scoped(() => {
            decoder.select(tensor(Int32Array.from(rows), { dtype: "int64", device }))
            return decoder.state()
          })
          tokens = rows.map((row) => next.tokens[row]!)
          active = running
        }
        next = scoped(() => {
          const column = [active.length, 1]
          const positions = padded
            ? tensor(
                Int32Array.from(active, (sequence) => prompts[sequence]!.length + step - 1),
                { shape: column, dtype: "int64", device }
              )
            : undefined
          return draw(
            decoder.step(tensor(Int32Array.from(tokens), { shape: column, dtype: "int64", device }), positions),
            active,
            randoms,
            options
          )
        })
      }
    })
  )
  return out
}

const generateOnGpu = (
  model: Llama,
  prompts: ReadonlyArray<ReadonlyArray<number>>,
  { batchInvariant = false, batchSize = prompts.length, maxNewTokens, seeds, temperature, topK = 0, topP = 1 }: GenerateOptions,
  stops: ReadonlySet<number>
): Array<Generated> => {
  const requests = prompts.map((prompt, i) => {
    if (temperature === 0) return { prompt, uniforms: undefined }
    const random = new Random(seeds![i]!, "sampling")
    return { prompt, uniforms: Array.from({ length: maxNewTokens }, () => random.next()) }
  })
  const settings = { maxNewTokens, temperature, topK, topP, stopIds: [...stops], batchSize, batchInvariant }
  const answers = scoped(() => noGrad(() => decodeOnGpu(model, requests, settings)))
  return answers.map(({ logProbabilities, tokens }, sequence) => {
    const broken = logProbabilities.findIndex((logProbability) => !Number.isFinite(logProbability))
    if (broken !== -1) throw notFiniteLogits("generate", `sequence ${sequence}, token ${broken + 1}`)
    return { tokens, logProbabilities, finished: stops.has(tokens.at(-1)!) }
  })
}

export interface Drawn {
  readonly tokens: ReadonlyArray<number>
  readonly logProbabilities: ReadonlyArray<number>
}

/** Draws one token per row from logits (B, V); row i uses the random numbers of sequence active[i]. */
export const draw = (logits: Tensor, active: ReadonlyArray<number>, randoms: ReadonlyArray<Random>, options: Restriction): Drawn => {
  if (options.temperature === 0) {
    const wide = logits.to({ dtype: "float32" })
    const chosen = wide.argmax(-1, true) // (B, 1)
    return { tokens: chosen.toNumbers(), logProbabilities: wide.logSoftmax(-1).gather(1, chosen).toNumbers() }
  }
  const kept = distributionLogits(logits, options)
  const uniform = tensor(
    Float64Array.from(active, (sequence) => randoms[sequence]!.next()),
    { device: logits.device }
  )
  if (isFused(kept)) {
    const drawn = aten("caravan::draw", kept.contiguous(), 1, uniform).toTypedArray() as Float64Array // (B, 2)
    return { tokens: active.map((_, row) => drawn[2 * row]!), logProbabilities: active.map((_, row) => drawn[2 * row + 1]!) }
  }
  // Inverse of the cumulative distribution, in float64: the first token whose cumulative probability exceeds the uniform number.
  const logProbabilities = kept.logSoftmax(-1) // (B, V)
  const cumulative = logProbabilities.to({ dtype: "float64" }).exp().cumsum(-1)
  const vocabulary = cumulative.size(1)
  const threshold = uniform.unsqueeze(1).mul(cumulative.slice(1, vocabulary - 1, vocabulary))
  const chosen = cumulative
    .le(threshold)
    .sum(1, true)
    .clamp(0, vocabulary - 1)
  return { tokens: chosen.toNumbers(), logProbabilities: logProbabilities.gather(1, chosen).toNumbers() }
}
