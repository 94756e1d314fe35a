/** The machine's properties that change the bits of tensor computations. The runtime does not know tensors: the outermost layer provides this. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { PipelineError } from "../errors.ts"

export class Numerics extends Context.Service<
  Numerics,
  {
    /** Named facts: libtorch version, device model, threads, BLAS, CPU capability, the addon's source. */
    readonly describe: (device: "cpu" | "cuda", threads: number) => Effect.Effect<Readonly<Record<string, string>>, PipelineError>
  }
>()("caravan/runtime/Numerics") {}
