/** Indices of the rows of several datasets, so that an order can be drawn before any row is read. */
import * as Effect from "effect/Effect"
import { countRows } from "../../data/dataset.ts"
import type { ArtifactError, ArtifactRef, Dataset, DatasetType } from "../../schemas/artifact.ts"

/** The indices of each dataset's rows, numbered consecutively over all datasets, as `writeReordered` expects them. */
export const indicesOf = Effect.fn("indicesOf")(function* <Row>(
  refs: ReadonlyArray<ArtifactRef<Dataset<Row>>>,
  type: DatasetType<Row>
): Effect.fn.Return<Array<ReadonlyArray<number>>, ArtifactError> {
  const counts = yield* Effect.forEach(refs, (ref) => countRows(ref, type))
  let end = 0
  return counts.map((count) => {
    const start = end
    end += count
    return Array.from({ length: count }, (_, i) => start + i)
  })
})
