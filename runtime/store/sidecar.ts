/**
 * A result's sidecar: files about how it was made, for the user. It is a separate object named by the result's trace, so that a reused result still
 * reports its skipped rows; no key or content digest depends on it, and gc deletes it together with its result.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import type { ArtifactType } from "../../schemas/artifact.ts"
import type { SkippedCount } from "../define/skipped.ts"
import type { StoreOperations } from "./store.ts"
import type { Trace } from "./traces.ts"

/** The rows that the stage skipped, one JSON object per line (define/skipped.ts). */
export const skippedFile = "skipped.jsonl"
/** The numbers that the stage reported at each step (run/curve.ts). */
export const curvesFile = "curves.parquet"

export const Sidecar: ArtifactType<never> = {
  kind: "sidecar",
  name: "sidecar/1",
  accepts: () => false,
  validate: () => Effect.void
}

/** The skipped rows of a result: counts and, if it still exists, the list. */
export interface SkippedReport {
  readonly skipped: ReadonlyArray<SkippedCount>
  /** The file that lists them; null if no rows were skipped or the file has been deleted. */
  readonly skippedRows: string | null
}
export const skippedReport = (
  store: Pick<StoreOperations, "path">,
  { sidecar, skipped = [] }: Pick<Trace, "sidecar" | "skipped">
): SkippedReport => {
  const path = sidecar === undefined || skipped.length === 0 ? null : `${store.path(sidecar)}/${skippedFile}`
  return { skipped, skippedRows: path !== null && existsSync(path) ? path : null }
}
