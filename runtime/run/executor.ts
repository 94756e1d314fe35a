/** Where stages run: in child processes, which can be stopped and limited at any time, or in this process for stages that request it. */
import { realpathSync } from "node:fs"
import { pathToFileURL } from "node:url"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { StageInfo } from "../define/stage-info.ts"
import { type PipelineError, StageError } from "../errors.ts"
import type { Execute } from "./execute.ts"
import { inProcess } from "./in-process.ts"
import { processPool } from "./process-pool.ts"
import { withoutSecrets } from "./secrets.ts"

export class Executor extends Context.Service<
  Executor,
  {
    /** Executes stages until the scope ends. Each run opens its own executor, because a child process keeps the code that it has loaded. */
    readonly open: Effect.Effect<Execute, never, Scope.Scope>
    /** Claims the store for a run whose stages run on other machines. Called before anything is written to it; released when the scope ends. */
    readonly claim: Effect.Effect<void, PipelineError, Scope.Scope>
  }
>()("caravan/runtime/Executor") {
  /**
   * `prepare`: a module whose `prepare(device, threads)` each child calls first, to set up the tensor engine: the runtime does not import it (child.ts).
   */
  static readonly layer = (options: ExecutorOptions): Layer.Layer<Executor> =>
    Layer.succeed(Executor, {
      open: Effect.gen(function* () {
        const here = executeBy(yield* processPool(options.prepare))
        const elsewhere = options.elsewhere === undefined ? nowhere : yield* options.elsewhere.open
        return withoutSecrets((work) => (work.on === undefined ? here(work) : elsewhere(work)))
      }),
      claim: options.elsewhere?.claim ?? Effect.void
    })
}

export interface ExecutorOptions {
  readonly prepare?: string | undefined
  /** Runs the stages of nodes that are placed on other machines. */
  readonly elsewhere?: Executor["Service"] | undefined
}

const nowhere: Execute = ({ on }) =>
  Effect.fail(
    new StageError({
      reason: "Slurm",
      message: `Node "${on?.node}" is placed on Slurm, which is not configured. Add "slurm": {} to caravan.json (in a program: Caravan.layer({ slurm: {} })), or place it locally with on({ executor: "local" }).`,
      isRetryable: false
    })
  )

/** Reasons: docs/decisions/0013-stages-run-in-children.md. */
const executeBy =
  (inChild: Execute): Execute =>
  (work) => {
    const { limits, stage } = work
    const needsChild = stage.resources.tensors === true || limits?.seconds !== undefined || limits?.memory !== undefined
    if (stage.resources.inProcess === true && !needsChild) return inProcess(work)
    if (stage.module !== programModule()) return inChild(work)
    return needsChild ? Effect.fail(ownProgram(stage)) : inProcess(work)
  }

/** The module that started this program; undefined if there is none (node --eval). A child that imported it would run the program again. */
const programModule = (): string | undefined => {
  try {
    return process.argv[1] === undefined ? undefined : pathToFileURL(realpathSync(process.argv[1])).href
  } catch {
    return undefined
  }
}

const ownProgram = (stage: StageInfo): StageError =>
  new StageError({
    reason: "Load",
    message: `Stage ${stage.name} is defined in the program's main file, ${stage.module}: a stage with tensors or limits runs in a separate process, which imports the stage's module and would run the program again. Move the stage to a separate file.`,
    isRetryable: false
  })
