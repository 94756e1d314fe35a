/**
 * Decoding on a GPU: one step for all sequences is recorded as a CUDA graph and replayed. Sequences occupy slots in a batch of fixed size; when one ends, the next prompt takes
 * its slot. Tokens are drawn on the device from random numbers that each request supplies; the host checks for finished sequences every few steps.
 *
 * Prompts are read without padding, packed one after another; requests with the same prompt share one pass.
 */
import { hasGpuKernels, joinedWeight, ownProductsAreOn, rmsNorm, streamedAttentionIsOn, swiglu } from "../engine/fused.ts"
import { hasOperator, native } from "../engine/native.ts"
import { aten, atenVoid, cat, type DType, embedding, full, linear, scoped, tensor, type Tensor, zeros } from "../engine/tensor.ts"
import { type AttentionLayout, prepareLayout, rotaryAttention, segmentLayout } from "./attention.ts"
import { BatchInvarianceError, inChunks, rowsOfPrompt, rowsOfStep } from "./batch-invariant.ts"
import { type HeadParameters, type Llama, prepareHeads } from "./llama.ts"
import { promptTokensAtOnce } from "./memory.ts"
import { distributionLogits, isRestricted, type Restriction } from "./restrict.ts"
import { startsOfSegments } from "./rotary.ts"

export interface GpuRequest {
  /** At least one token. */
  readonly prompt: ReadonlyArray<number>
  /** A random number in [0, 1) per token that may be drawn; undefined for greedy decoding. */
  readonly uniforms: ReadonlyArray<number> | undefined
}
export interface GpuOptions extends Restriction {
  readonly maxNewTokens: number
  readonly stopIds: ReadonlyArray<number>
  /** Number of sequences decoded in parallel. */
  readonly batchSize: number
  /** Whether an answer must not depend on the other requests and on batchSize (batch-invariant.ts). */
  readonly batchInvariant: boolean
}
export interface GpuAnswer {
  readonly tokens: ReadonlyArray<number>
  /** NaN where the logits were not finite; generation stops there. */
  readonly logProbabilities: ReadonlyArray<number>
}

/**
 * Whether this decoder supports the model and prompts of at most this length: the kernels restrict heads, widths and vocabulary. Prompts longer than a sliding window are
 * not supported.
 */
export const decodesOnGpu = (model: Llama, longestPrompt = 0): boolean => {
  const { config } = model
  return (
    hasGpuKernels(model.parameter("model.norm.weight")) &&
    [16, 32, 64, 128, 256].includes(config.headDim) &&
    config.dim % 8 === 0 &&
    config.ffn % 8 === 0 &&
    config.vocabSize <= 262_144 &&
    longestPrompt <= (config.slidingWindow ?? Infinity)
  )
}

/** Steps between two checks by the host: a finished sequence waits at most this many steps. */
const stepsAtOnce = 8
/** New prompts start once this share of the slots is free: reading a prompt takes about as long as one step of all slots. */
const refillAt = 1 / 8
/** Target number of thread blocks on the GPU: with fewer sequences and heads, the keys are split. */
const blocksWanted = 264
/** Fewest keys per part, as in the kernel (native/gpu-attend-kernels.h). Eight sequences with 1.1B parameters took 1.29 ms per step with three parts, 1.18 to 1.20 ms without (H200, 64 to 320 keys). */
const keysPerPart = 256

interface Block {
  readonly attentionNorm: Tensor
  readonly qkv: Tensor
  readonly heads: HeadParameters
  readonly o: Tensor
  readonly ffnNorm: Tensor
  readonly gateUp: Tensor
  readonly down: Tensor
}

/** Continues each request's prompt; results are in the order of the requests. Call inside a scope and noGrad. */
export const decodeOnGpu = (model: Llama, requests: ReadonlyArray<GpuRequest>, options: GpuOptions): Array<GpuAnswer> => {
  const decoder = new GpuDecoder(model, requests, options)
  try {
    return decoder.run()
  } finally {
    decoder.free()
  }
}

class GpuDecoder {
  readonly #model: Llama
  readonly #requests: ReadonlyArray<GpuRequest>
  readonly #options: GpuOptions
  /** Number of slots. */
  readonly #batch: number
  /** Rows of a step's tensors: one per slot, and with batchInvariant idle ones up to a multiple of rowsOfStep. */
  readonly #rows: number
  readonly #splits: number
  readonly #blocks: ReadonlyArray<Block>
  readonly #table: { readonly cos: Tensor; readonly sin: Tensor }
  /** Per layer: (B, G, S, E). */
  readonly #keys: ReadonlyArray<Tensor>
  readonly #values: ReadonlyArray<Tensor>
  /** Per slot, (B,) int32: the request, its next step, the position that is read next (-1: idle), the token at that position. */
  readonly #request: Tensor
  readonly #step: Tensor
  readonly #position: Tensor
  readonly #token: Tensor
  /** Per request and step, (R, N). */
  readonly #uniforms: Tensor
  readonly #outTokens: Tensor
  readonly #outLogs: Tensor
  readonly #stops: Tensor
  /** A step of all slots up to the logits (rows, V); it also draws the tokens, unless the logits are restricted. */
  #graph: { readonly id: number; readonly logits: Tensor } | undefined

  constructor(model: Llama, requests: ReadonlyArray<GpuRequest>, options: GpuOptions) {
    const { config, device, dtype } = model
    // Without it, a norm is a sum whose order depends on the number of rows.
    if (options.batchInvariant && !hasOperator("_fused_rms_norm"))
      throw new BatchInvarianceError(
        "generate: batchInvariant needs libtorch's kernel for RMSNorm on a GPU. This libtorch does not have it. Use libtorch 2.9 or later, or turn batchInvariant off."
      )
    this.#model = model
    this.#requests = requests
    this.#options = options
    const batch = Math.min(options.batchSize, requests.length)
    this.#batch = batch
    this.#rows = options.batchInvariant ? Math.ceil(batch / rowsOfStep) * rowsOfStep : batch
    this.#blocks = Array.from({ length: config.layers }, (_, layer) =>
      scoped(() => {
        const { attentionNorm, q, k, v, o, ffnNorm, gate, up, down } = model.block(layer)
        return {
          attentionNorm,
          qkv: joinedWeight([q, k, v]),
          heads: model.headParameters(layer),
          o,
          ffnNorm,
          gateUp: joinedWeight([gate, up]),
          down
        }
      })
    )
    const longest = requests.reduce((most, { prompt }) => Math.max(most, prompt.length), 0)
    const capacity = Math.ceil((longest + options.maxNewTokens) / 64) * 64
    const { cos, sin } = model.rotary.at(device, dtype, Math.min(capacity, config.maxPositions))
    this.#table = { cos, sin }
    const cache = () =>
      Array.from({ length: config.layers }, () => zeros([batch, config.kvHeads, capacity, config.headDim], { dtype, device }))
    this.#keys = cache()
    this.#values = cache()
    const [sequences, most] = options.batchInvariant ? [rowsOfStep, config.maxPositions] : [batch, capacity]
    const parts = Math.min(Math.floor(most / keysPerPart), Math.floor(blocksWanted / (sequences * config.kvHeads)))
    this.#splits = [8, 4, 2].find((splits) => splits <= parts) ?? 1
    const integers = (fill: number) => tensor(new Int32Array(this.#rows).fill(fill), { device })
    this.#request = integers(0)
    this.#step = integers(0)
    this.#position = integers(-1)
    this.#token = integers(0)
    const count = requests.length * options.maxNewTokens
    const shape = [requests.length, options.maxNewTokens]
    const uniforms = new Float64Array(count)
    requests.forEach((request, i) => uniforms.set(request.uniforms ?? [], i * options.maxNewTokens))
    this.#uniforms = tensor(uniforms, { shape, device })
    this.#outTokens = tensor(new Int32Array(count).fill(-1), { shape, device })
    this.#outLogs = zeros(shape, { dtype: "float32", device })
    this.#stops = tensor(Int32Array.from(options.stopIds), { device })
  }

  run(): Array<GpuAnswer> {
    const waiting = this.#requests.map((_, i) => i)
    let free = Array.from({ length: this.#batch }, (_, row) => row)
    for (;;) {
      if (waiting.length > 0 && free.length >= this.#batch * refillAt)
        this.#admit(free.slice(0, waiting.length), waiting.splice(0, free.length))
      const positions = this.#position.toNumbers().slice(0, this.#batch)
      free = positions.flatMap((position, row) => (position < 0 ? [row] : []))
      if (free.length === this.#batch && waiting.length === 0) return this.#answers()
      // A sequence may end with its first token.
      if (waiting.length > 0 && free.length >= this.#batch * refillAt) continue
      this.#graph ??= this.#record()
      for (let step = 0; step < stepsAtOnce; step++) {
        native().runGraph(this.#graph.id)
        if (isRestricted(this.#options)) this.#draw(this.#graph.logits, null)
      }
    }
  }

  free(): void {
    if (this.#graph !== undefined) native().freeGraph(this.#graph.id)
    this.#graph = undefined
  }

  #answers(): Array<GpuAnswer> {
    const [tokens, logs] = [this.#outTokens.toNumbers(), this.#outLogs.toNumbers()]
    const { maxNewTokens } = this.#options
    return this.#requests.map((_, i) => {
      const from = i * maxNewTokens
      let count = 0
      while (count < maxNewTokens && tokens[from + count]! >= 0) count++
      return { tokens: tokens.slice(from, from + count), logProbabilities: logs.slice(from, from + count) }
    })
  }

  /** Starts requests in these slots and draws the first token of each. */
  #admit(rows: ReadonlyArray<number>, requests: ReadonlyArray<number>): void {
    for (let from = 0; from < rows.length;) {
      let [to, tokens] = [from, 0]
      do tokens += this.#requests[requests[to++]!]!.prompt.length
      while (to < rows.length && tokens + this.#requests[requests[to]!]!.prompt.length <= promptTokensAtOnce)
      scoped(() => this.#read(rows.slice(from, to), requests.slice(from, to)))
      from = to
    }
  }

  #read(rows: ReadonlyArray<number>, requests: ReadonlyArray<number>): void {
    const { config, device, dtype } = this.#model
    const integers = (numbers: ReadonlyArray<number>, kind: DType = "int32") => tensor(Int32Array.from(numbers), { dtype: kind, device })
    // Consecutive requests with the same prompt share the first one's pass.
    const prompts = requests.map((request) => this.#requests[request]!.prompt)
    const readers: Array<number> = []
    const sharedWith = prompts.map((prompt) => {
      const same = readers.find(
        (reader) => prompts[reader]!.length === prompt.length && prompts[reader]!.every((token, i) => token === prompt[i])
      )
      if (same === undefined) readers.push(prompts.indexOf(prompt))
      return same ?? readers.at(-1)!
    })
    const read = readers.map((reader) => prompts[reader]!)
    const ids = integers(read.flat(), "int64").unsqueeze(0) // (1, T)
    const segments = integers(
      read.flatMap((prompt, i) => prompt.map(() => i)),
      "int64"
    ).unsqueeze(0)
    const positions = read.flatMap((prompt) => prompt.map((_, i) => i))
    const places = integers(positions)
    const rowOf = integers(readers.flatMap((reader) => prompts[reader]!.map(() => rows[reader]!)))
    const packed = segmentLayout(segments, startsOfSegments(segments), dtype)
    const layout = this.#options.batchInvariant ? this.#invariantLayout(packed, read) : packed
    prepareLayout(layout, this.#model, config.headDim)
    const rotation = this.#model.rotary.at(device, dtype, integers(positions, "int64").unsqueeze(0))
    let x = embedding(this.#model.parameter("model.embed_tokens.weight"), ids) // (1, T, D)
    this.#blocks.forEach((block, layer) => {
      const before = x
      x = scoped(() => {
        const projected = this.#linear(rmsNorm(before, block.attentionNorm, config.normEpsilon), block.qkv, rowsOfPrompt)
        const qkv = prepareHeads(projected, block.heads, config).contiguous()
        this.#place(qkv, places, rowOf, layer)
        const attended = before.add(
          this.#linear(rotaryAttention(qkv, rotation, layout, config.heads, config.kvHeads), block.o, rowsOfPrompt)
        )
        const gateUp = this.#linear(rmsNorm(attended, block.ffnNorm, config.normEpsilon), block.gateUp, rowsOfPrompt)
        return attended.add(this.#linear(swiglu(gateUp), block.down, rowsOfPrompt))
      })
      before.free()
    })
    // Copies the keys and values of a shared prompt to the other slots.
    const copies = rows.flatMap((row, i) => (sharedWith[i] === i ? [] : [{ row, from: rows[sharedWith[i]!]!, length: prompts[i]!.length }]))
    for (const { from, length, row } of copies)
      for (const cache of [...this.#keys, ...this.#values])
        scoped(() =>
          cache
            .select(0, row)
            .slice(1, 0, length)
            .copy_(cache.select(0, from).slice(1, 0, length))
        )
    let end = -1
    const last = read.map((prompt) => (end += prompt.length))
    const states = x.squeeze(0).indexSelect(
      0,
      integers(
        sharedWith.map((reader) => last[readers.indexOf(reader)]!),
        "int64"
      )
    ) // (N, D)
    const normed = rmsNorm(states, this.#model.parameter("model.norm.weight"), config.normEpsilon)
    const logits = this.#linear(normed, this.#model.outputWeight, rowsOfStep)
    const at = integers(rows, "int64")
    const set = (state: Tensor, numbers: ReadonlyArray<number>) => void aten("index_copy_", state, 0, at, integers(numbers))
    set(this.#request, requests)
    set(
      this.#step,
      requests.map(() => 0)
    )
    // The first drawn token follows the prompt.
    set(
      this.#position,
      prompts.map((prompt) => prompt.length - 1)
    )
    this.#draw(logits, integers(rows))
  }

  /** x (..., K) times the transpose of a weight (N, K): (..., N). With batchInvariant, `rows` at a time. */
  #linear(x: Tensor, weight: Tensor, rows: number): Tensor {
    if (!this.#options.batchInvariant) return linear(x, weight)
    const product = inChunks(x.reshape(-1, weight.size(1)), rows, (chunk) => linear(chunk, weight))
    return product.view(...x.shape.slice(0, -1), weight.size(0))
  }

  /**
   * Always by cumulative lengths, also for a single prompt: kernels with cumulative lengths treat each sequence separately and do not split its keys. With a longest prompt of
   * one token, flash attention would use another kernel.
   */
  #invariantLayout(packed: AttentionLayout, prompts: ReadonlyArray<ReadonlyArray<number>>): AttentionLayout {
    const ends = [0]
    for (const { length } of prompts) ends.push(ends.at(-1)! + length)
    const cumulative = tensor(Int32Array.from(ends), { device: this.#model.device })
    const longest = prompts.reduce((most, { length }) => Math.max(most, length), 2)
    return { ...packed, lengths: () => ({ cumulative, longest }) }
  }

  #place(qkv: Tensor, positions: Tensor, rows: Tensor, layer: number): void {
    const { cos, sin } = this.#table
    atenVoid("caravan::decode_place_", qkv, cos, sin, positions, rows, this.#keys[layer], this.#values[layer], this.#model.config.heads)
  }
  /** Draws a token for each row of logits (N, V): for the sequences in slots `rows` (N,), or for all. */
  #draw(logits: Tensor, rows: Tensor | null): void {
    const options = this.#options
    if (!isRestricted(options)) return this.#sample(logits, rows, options.temperature)
    scoped(() => {
      const restricted = options.batchInvariant
        ? inChunks(inEights(logits), rowsOfStep, (chunk) => distributionLogits(chunk, options))
        : distributionLogits(logits, options)
      this.#sample(restricted, rows, 1)
    })
  }
  #sample(logits: Tensor, rows: Tensor | null, temperature: number): void {
    const state = [this.#request, this.#step, this.#position, this.#token, this.#outTokens, this.#outLogs, this.#stops]
    atenVoid("caravan::decode_sample_", logits, rows, this.#uniforms, ...state, temperature, this.#model.config.headDim)
  }

  /** Runs one step of all slots, and records it as a graph. Restricted logits are drawn from outside the graph, because sorting allocates memory. */
  #record(): { readonly id: number; readonly logits: Tensor } {
    const { config, device, dtype } = this.#model
    const { dim, ffn, headDim, heads, kvHeads, normEpsilon, vocabSize } = config
    const [slots, all] = [this.#batch, this.#rows]
    const room = (columns: number, kind: DType = dtype) => zeros([all, columns], { dtype: kind, device })
    // These belong to the enclosing scope: the graph reads and writes them in every step.
    const [x, h, qkv] = [room(dim), room(dim), room((heads + 2 * kvHeads) * headDim)]
    const [attended, out, gateUp, gated, logits] = [room(heads * headDim), room(dim), room(2 * ffn), room(ffn), room(vocabSize)]
    const partial = this.#splits === 1 ? null : room(heads * this.#splits * (headDim + 2), "float32")
    const output = this.#model.outputWeight
    const norm = this.#model.parameter("model.norm.weight")
    // Rows of the slots: the cache has no others.
    const occupied = (tensor: Tensor) => (slots === all ? tensor : tensor.slice(0, 0, slots))
    const [ownQkv, ownPosition, ownAttended] = [occupied(qkv), occupied(this.#position), occupied(attended)]
    /** Calls f with these tensors (rows, ...), with batchInvariant for each rowsOfStep of their rows. */
    const byRows = (tensors: ReadonlyArray<Tensor>, f: (...tensors: ReadonlyArray<Tensor>) => void) =>
      scoped(() => {
        if (!this.#options.batchInvariant) return f(...tensors)
        for (let row = 0; row < all; row += rowsOfStep) f(...tensors.map((tensor) => tensor.slice(0, row, row + rowsOfStep)))
      })
    const [own, streamed] = [ownProductsAreOn(), streamedAttentionIsOn()]
    const times = (from: Tensor, weight: Tensor, to: Tensor) =>
      byRows([from, to], (rows, product) => atenVoid("caravan::decode_product_", rows, weight, product, own))
    const addNorm = (more: Tensor | null, weight: Tensor) => atenVoid("caravan::decode_add_norm_", x, more, weight, h, normEpsilon, headDim)
    const prepare = ({ bias, norms }: HeadParameters) => {
      if (bias !== undefined || norms !== undefined)
        atenVoid("caravan::decode_heads_", qkv, bias ?? null, norms?.q ?? null, norms?.k ?? null, normEpsilon, headDim, heads, kvHeads)
    }
    const window = config.slidingWindow ?? 0
    const step = () => {
      atenVoid("caravan::decode_embed_", x, this.#model.parameter("model.embed_tokens.weight"), this.#token, this.#position, headDim)
      this.#blocks.forEach((block, layer) => {
        addNorm(layer === 0 ? null : out, block.attentionNorm)
        times(h, block.qkv, qkv)
        prepare(block.heads)
        atenVoid(
          "caravan::decode_attend_",
          ownQkv,
          this.#table.cos,
          this.#table.sin,
          this.#keys[layer],
          this.#values[layer],
          ownPosition,
          ownAttended,
          partial,
          heads,
          this.#splits,
          window,
          streamed
        )
        times(attended, block.o, out)
        addNorm(out, block.ffnNorm)
        byRows([h, gateUp, gated], (rows, both, product) =>
          atenVoid("caravan::decode_gated_product_", rows, block.gateUp, both, product, own, headDim)
        )
        times(gated, block.down, out)
      })
      addNorm(out, norm)
      times(h, output, logits)
      if (!isRestricted(this.#options)) this.#draw(logits, null)
    }
    // Kernels are compiled, and libraries select theirs, outside the recording: this is an ordinary step.
    step()
    if (isRestricted(this.#options)) this.#draw(logits, null)
    native().beginGraph()
    try {
      step()
    } catch (cause) {
      this.#abandonRecording()
      throw cause
    }
    return { id: native().endGraph(), logits }
  }

  /** Ends a recording in which an error was thrown. A further error here carries no information. */
  #abandonRecording(): void {
    try {
      native().freeGraph(native().endGraph())
    } catch {
      // The first error has the cause.
    }
  }
}

/** Logits with minus infinity up to a multiple of 8 columns: libtorch's softmax adds in an order that depends on the alignment of a row. */
const inEights = (logits: Tensor): Tensor => {
  const [rows, vocabulary] = logits.shape as [number, number]
  const beyond = (8 - (vocabulary % 8)) % 8
  return beyond === 0 ? logits : cat([logits, full([rows, beyond], -Infinity, { dtype: logits.dtype, device: logits.device })], 1)
}
