/** Everything that a run needs, except the machine's numerics: provided once, by whoever starts it. */
import * as Layer from "effect/Layer"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"
import { Executor, type ExecutorOptions } from "./executor.ts"

export interface LayerOptions {
  /** The folder of the store and the journal (home.ts finds the default one). */
  readonly home: string
  /** The module that sets up the tensor engine in a child process. */
  readonly prepare?: string | undefined
  /** Runs the stages of nodes that are placed elsewhere (cluster/slurm.ts). */
  readonly elsewhere?: ExecutorOptions["elsewhere"]
}

export const layer = ({ home, prepare, elsewhere }: LayerOptions): Layer.Layer<Store | Journal | Executor> =>
  Layer.mergeAll(Store.layer(home), Journal.layer(home), Executor.layer({ prepare, elsewhere }))
