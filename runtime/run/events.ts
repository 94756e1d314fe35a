/** What happens in a run, as it happens, and what came of it. */
import type { Progress } from "../define/stage-info.ts"
import type { NodeStatus } from "../store/executions.ts"
import type { ToldOfSkipped } from "../store/sidecar.ts"

export type RunEvent =
  | { readonly type: "run-started"; readonly run: string; readonly pipeline: string; readonly nodes: ReadonlyArray<string> }
  | { readonly type: "node-started"; readonly node: string; readonly stage: string; readonly why: ReadonlyArray<string> }
  /** An input is read, to know its content: told of while it takes, and at the end (`done` = `total`, in bytes). */
  | { readonly type: "reading"; readonly path: string; readonly done: number; readonly total: number }
  /** An input that is on the Hub is fetched, or what is here of it read: told of while it takes, and at the end (`done` = `total`, in bytes). */
  | { readonly type: "downloading"; readonly name: string; readonly done: number; readonly total: number }
  /** Another run makes it: this one waits for it. */
  | { readonly type: "node-waiting"; readonly node: string; readonly by: string }
  | { readonly type: "progress"; readonly node: string; readonly progress: Progress }
  /** What a stage's process printed. */
  | { readonly type: "output"; readonly node: string; readonly text: string }
  | { readonly type: "note"; readonly node: string; readonly message: string }
  | { readonly type: "node-finished"; readonly node: NodeResult }
  | { readonly type: "run-finished"; readonly status: RunResult["status"]; readonly milliseconds: number }

/** `skipped` is what the stage could not use when the result was made, also of a result that was found. */
export interface NodeResult extends ToldOfSkipped {
  readonly id: string
  readonly stage: string
  readonly status: NodeStatus
  readonly milliseconds: number
  readonly key: string | null
  readonly digest: string | null
  readonly metrics: Readonly<Record<string, number>>
  readonly error: string | null
}

export interface StoredOutput {
  readonly kind: string
  /** The artifact type's name. */
  readonly type: string
  readonly path: string
  readonly digest: string
  readonly contentDigest: string
}

export interface RunResult<Output extends string = string> {
  readonly run: string
  readonly pipeline: string
  readonly status: "succeeded" | "failed"
  readonly nodes: ReadonlyArray<NodeResult>
  /** By name; an output whose node failed or was skipped is not there. */
  readonly outputs: string extends Output ? Readonly<Record<string, StoredOutput>> : { readonly [Name in Output]?: StoredOutput }
}
