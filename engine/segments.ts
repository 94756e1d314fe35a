/**
 * A backward pass that runs segment by segment in an explicit loop: each segment's input is detached from the graph of the segment before it, and the
 * loop passes the gradient across the cut. Instead of keeping its activations, a segment may be recomputed in the backward pass (activation
 * checkpointing, Chen et al. 2016). Its gradients are the same, bit for bit if the operators are reproducible.
 */
import { clearGradients, noGrad, recordsGradients, scoped, type Tensor } from "./tensor.ts"

/** Weights that are sharded over ranks. The methods announce which block's weights are needed. Blocks are counted from 0. */
export interface SpreadWeights {
  /** Called before a micro-batch and after its backward pass. */
  begin(): void
  end(): void
  /** Called before and after a block's forward pass and its backward pass. Its weights are needed only in between; its gradients exist after the backward pass. */
  forward(block: number): void
  forwarded(block: number): void
  backward(block: number): void
  backwarded(block: number): void
  /** Called after a step's last micro-batch. */
  accumulated(): void
}

interface Segment {
  readonly index: number
  /** The segment's detached input; its gradient exists once the segment's backward pass has run. */
  readonly input: Tensor
  /** The tensor that `input` was detached from; undefined if it is the output of the previous segment. */
  readonly source: Tensor | undefined
  readonly compute: (x: Tensor) => Tensor
  /** The result with its graph; undefined if the segment will be recomputed. */
  readonly kept: Tensor | undefined
  /** The detached result, which later computation reads. */
  readonly output: Tensor
}

/** The segments recorded for the next backward pass, in the order of the forward pass. */
interface Tape {
  readonly recompute: number
  readonly weights: SpreadWeights | undefined
  readonly segments: Array<Segment>
}
let tape: Tape | undefined

/**
 * Calls `body`, which computes a loss and passes it to `backward`. The graph is cut between the segments that `body` computes; the first `recompute`
 * segments of each model are recomputed in the backward pass. Call it inside a scope, which then owns the segments' tensors.
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
        "Gradients stopped at a cut between segments: pass the loss to backward() of engine/segments.ts instead of calling loss.backward()."
      )
    weights?.end()
    return result
  } finally {
    tape = around
  }
}

/**
 * Computes segment `index` of a model (counted from 0) as compute(x). Everything else that `compute` reads must outlive the backward pass; the result lives until
 * `backward` has processed it. Outside inSegments, and if no gradients are recorded, this just calls `compute`.
 */
export const segment = (index: number, x: Tensor, compute: (x: Tensor) => Tensor): Tensor => {
  if (tape === undefined || !recordsGradients()) return scoped(() => compute(x))
  const { recompute, segments, weights } = tape
  const follows = segments.at(-1)?.output === x
  const input = follows ? x : x.detach().requiresGrad(x.hasGradient)
  const recomputed = index < recompute
  weights?.forward(index)
  const kept = recomputed ? undefined : scoped(() => compute(input))
  const output = (kept?.detach() ?? noGrad(() => scoped(() => compute(input)))).requiresGrad()
  weights?.forwarded(index)
  segments.push({ index, input, source: follows ? undefined : x, compute, kept, output })
  return output
}

/** Accumulates gradients into every leaf that a loss depends on, like `loss.backward()`, but across the cuts between segments. */
export const backward = (loss: Tensor): void => {
  loss.backward()
  const weights = tape?.weights
  for (let at = tape?.segments.pop(); at !== undefined; at = tape?.segments.pop()) {
    const { compute, index, input, kept, output, source } = at
    weights?.backward(index)
    scoped(() => {
      const gradient = output.grad()
      // The loss does not depend on this segment.
      if (gradient === undefined) return
      clearGradients([output])
      const result = kept ?? compute(input)
      // All of its inputs are frozen.
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
