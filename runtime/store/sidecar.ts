/**
 * A result's sidecar: files about how it was made, for its user to look at. It is an object of its own, named by the result's trace, so that a result
 * that is found again still says what was skipped; no key and no content digest depends on it, and gc takes it with its result.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import type { ArtifactType } from "../../schemas/artifact.ts"
import type { SkippedCount } from "../define/skipped.ts"
import type { StoreOperations } from "./store.ts"
import type { Trace } from "./traces.ts"

/** The rows that the stage skipped, one JSON object a line (define/skipped.ts). */
export const skippedFile = "skipped.jsonl"
/** What the stage reported step by step (run/curve.ts). */
export const curvesFile = "curves.parquet"

export const Sidecar: ArtifactType<never> = {
  kind: "sidecar",
  name: "sidecar/1",
  accepts: () => false,
  validate: () => Effect.void
}

/** What a result's trace tells of the rows that its stage could not use. */
export interface ToldOfSkipped {
  readonly skipped: ReadonlyArray<SkippedCount>
  /** The file that lists them; null where there are none, or it is gone. */
  readonly skippedRows: string | null
}
export const toldOfSkipped = (
  store: Pick<StoreOperations, "path">,
  { sidecar, skipped = [] }: Pick<Trace, "sidecar" | "skipped">
): ToldOfSkipped => {
  const path = sidecar === undefined || skipped.length === 0 ? null : `${store.path(sidecar)}/${skippedFile}`
  return { skipped, skippedRows: path !== null && existsSync(path) ? path : null }
}
