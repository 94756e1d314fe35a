/** The events of a run, and its result. */
import type { Progress } from "../define/stage-info.ts"
import type { NodeStatus } from "../store/executions.ts"
import type { SkippedReport } from "../store/sidecar.ts"

export type RunEvent =
  | { readonly type: "run-started"; readonly run: string; readonly pipeline: string; readonly nodes: ReadonlyArray<string> }
  | { readonly type: "node-started"; readonly node: string; readonly stage: string; readonly why: ReadonlyArray<string> }
  /** An input is being hashed: emitted during the read and at its end (`done` = `total`, in bytes). */
  | { readonly type: "reading"; readonly path: string; readonly done: number; readonly total: number }
  /** An input from the Hub is being downloaded, or its local copy verified: emitted meanwhile and at the end (`done` = `total`, in bytes). */
  | { readonly type: "downloading"; readonly name: string; readonly done: number; readonly total: number }
  /** Another run is computing it: this one waits. */
  | { readonly type: "node-waiting"; readonly node: string; readonly by: string }
  | { readonly type: "progress"; readonly node: string; readonly progress: Progress }
  /** Output of a stage's process. */
  | { readonly type: "output"; readonly node: string; readonly text: string }
  | { readonly type: "note"; readonly node: string; readonly message: string }
  | { readonly type: "node-finished"; readonly node: NodeResult }
  | { readonly type: "run-finished"; readonly status: RunResult["status"]; readonly milliseconds: number }

/** `skipped` is what the stage skipped when the result was made, also for reused results. */
export interface NodeResult extends SkippedReport {
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
  /** The name of the artifact type. */
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
  /** By name; outputs of failed or skipped nodes are missing. */
  readonly outputs: string extends Output ? Readonly<Record<string, StoredOutput>> : { readonly [Name in Output]?: StoredOutput }
}
