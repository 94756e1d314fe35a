/** Where stages run: in this process those that move data, in child processes those that compute with tensors. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Execute } from "./execute.ts"
import { inProcess } from "./in-process.ts"
import { processPool } from "./process-pool.ts"
import { withoutSecrets } from "./secrets.ts"

export class Executor extends Context.Service<
  Executor,
  {
    /** What runs stages until the scope ends. Each run opens its own: a child computes with the code that it loaded when the run began. */
    readonly open: Effect.Effect<Execute, never, Scope.Scope>
  }
>()("caravan/runtime/Executor") {
  /** `prepare`: a module whose `prepare(device, threads)` a child calls first: how the tensor engine is set up without the runtime knowing it. */
  static readonly layer = (options: { readonly prepare?: string | undefined } = {}): Layer.Layer<Executor> =>
    Layer.succeed(Executor, {
      open: Effect.map(processPool(options.prepare), (inChild): Execute =>
        withoutSecrets((work) => (work.stage.resources.tensors === true ? inChild(work) : inProcess(work)))
      )
    })
}
