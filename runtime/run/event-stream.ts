/** A run as a stream of its events. */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import type { PipelineError, StoreError } from "../errors.ts"
import type { AnyNode } from "../define/node.ts"
import type { Numerics } from "../key/numerics.ts"
import type { Pipeline } from "../define/pipeline.ts"
import type { Journal } from "../store/journal.ts"
import type { Store } from "../store/store.ts"
import type { RunEvent } from "./events.ts"
import type { Executor } from "./executor.ts"
import type { RunOptions } from "./options.ts"
import { run } from "./run.ts"

/**
 * Runs the pipeline and emits its events; the last one is run-finished. Like `run`, fails only if the run can't start or its store breaks. A consumer
 * that ends early or is interrupted stops the run, as Ctrl-C does: finished results are kept, and the stream ends after the stages' processes have.
 * Events wait for a slow consumer; the run does not.
 *
 *     yield* runEvents(pipeline, {}).pipe(Stream.runForEach((event) => Console.log(event.type)))
 */
export const runEvents = <Params extends ConfigSchema, Outputs extends Readonly<Record<string, AnyNode>>>(
  pipeline: Pipeline<Params, Outputs>,
  params: Params["Encoded"],
  options: Omit<RunOptions, "onEvent"> = {}
): Stream.Stream<RunEvent, PipelineError | ConfigError | StoreError, Store | Journal | Executor | Numerics> =>
  Stream.callback<RunEvent, PipelineError | ConfigError | StoreError, Store | Journal | Executor | Numerics>((queue) =>
    Effect.gen(function* () {
      let last: Extract<RunEvent, { type: "run-finished" }> | undefined
      const onEvent = (event: RunEvent) => {
        // Lock file mismatches are reported after the last node.
        if (event.type === "run-finished") last = event
        else Queue.offerUnsafe(queue, event)
      }
      const { status } = yield* run(pipeline, params, { ...options, onEvent })
      if (last !== undefined) Queue.offerUnsafe(queue, { ...last, status })
      Queue.endUnsafe(queue)
    })
  )
