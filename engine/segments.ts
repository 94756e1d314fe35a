/**
 * A backward pass that goes segment by segment, by a loop that is written out: what comes before a segment is cut off from it, and the gradient is handed
 * across the cut by hand. A segment may be computed again in the backward pass in place of keeping what it computed (activation checkpointing, Chen et al. 2016); its
 * gradients are the same, bit for bit where the operators are reproducible.
 */
import { clearGradients, noGrad, recordsGradients, scoped, type Tensor } from "./tensor.ts"

/** Weights that are spread over ranks: told when those of a block are needed. Blocks are counted from 0. */
export interface SpreadWeights {
  /** Before a micro-batch, and after its backward pass. */
  begin(): void
  end(): void
  /** Around a block's forward pass, and around its backward pass: its weights are not needed outside of them, and its gradients are there after the latter. */
  forward(block: number): void
  forwarded(block: number): void
  backward(block: number): void
  backwarded(block: number): void
  /** After a step's last micro-batch. */
  accumulated(): void
}

interface Segment {
  readonly index: number
  /** What the segment read, cut off; its gradient is there once the segment's backward pass has run. */
  readonly input: Tensor
  /** What that was cut off from; undefined where it is the output of the segment before. */
  readonly source: Tensor | undefined
  readonly compute: (x: Tensor) => Tensor
  /** The result with all that it keeps; undefined where it is computed again. */
  readonly kept: Tensor | undefined
  /** The result, cut off: what comes after reads it. */
  readonly output: Tensor
}

/** The segments of the backward pass that is being prepared, in the order of the forward pass. */
interface Tape {
  readonly recompute: number
  readonly weights: SpreadWeights | undefined
  readonly segments: Array<Segment>
}
let tape: Tape | undefined

/**
 * Calls `body`, which computes a loss and calls `backward` with it. Segments made in between are cut; the first `recompute` of each model's are computed again in
 * the backward pass. Call it inside a scope: the segments' tensors belong to that.
 */
export const inSegments = <A>(
  { recompute, weights }: { readonly recompute: number; readonly weights?: SpreadWeights | undefined },
  body: () => A
): A => {
  const around = tape
  tape = { recompute, weights, segments: [] }
  try {
    weights?.begin()
    const result = body()
    if (tape.segments.length > 0)
      throw new Error(
        "Gradients stopped at a cut between segments: give the loss to backward() of engine/segments.ts in place of calling its own."
      )
    weights?.end()
    return result
  } finally {
    tape = around
  }
}

/**
 * compute(x): the segment number `index` of a model, counted from 0. Whatever else `compute` reads must outlive the backward pass; what this returns lives until
 * `backward` has passed it. Outside of inSegments, and where no gradients are recorded, it is just computed.
 */
export const segment = (index: number, x: Tensor, compute: (x: Tensor) => Tensor): Tensor => {
  if (tape === undefined || !recordsGradients()) return scoped(() => compute(x))
  const { recompute, segments, weights } = tape
  const follows = segments.at(-1)?.output === x
  const input = follows ? x : x.detach().requiresGrad(x.hasGradient)
  const forget = index < recompute
  weights?.forward(index)
  const kept = forget ? undefined : scoped(() => compute(input))
  const output = (kept?.detach() ?? noGrad(() => scoped(() => compute(input)))).requiresGrad()
  weights?.forwarded(index)
  segments.push({ index, input, source: follows ? undefined : x, compute, kept, output })
  return output
}

/** Accumulates gradients into every leaf behind a loss, as `loss.backward()`, across the cuts between segments. */
export const backward = (loss: Tensor): void => {
  loss.backward()
  const weights = tape?.weights
  for (let at = tape?.segments.pop(); at !== undefined; at = tape?.segments.pop()) {
    const { compute, index, input, kept, output, source } = at
    weights?.backward(index)
    scoped(() => {
      const gradient = output.grad()
      // A loss that does not depend on it.
      if (gradient === undefined) return
      clearGradients([output])
      const result = kept ?? compute(input)
      // All that it read is frozen.
      if (!result.hasGradient) return
      result.backward(gradient)
      if (source?.hasGradient === true) source.backward(input.grad())
    })
    weights?.backwarded(index)
    kept?.free()
    output.free()
    if (source !== undefined) input.free()
  }
}
