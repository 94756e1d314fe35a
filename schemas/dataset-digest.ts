/** The content digest of a dataset. */
import { createHash, type Hash } from "node:crypto"
import * as Effect from "effect/Effect"
import { columnsOf, describeKind, type Kind } from "./arrow.ts"
import type { ArtifactError, DatasetType } from "./artifact.ts"
import { openRows } from "./dataset-file.ts"

const chunkRows = 4096

/**
 * sha256 over the schema and the values, in blocks of 4096 rows: equal rows have equal digests regardless of batching, padding and encoding.
 * Every value is preceded by its length or a tag, so that ["ab", "c"] and ["a", "bc"], or null and 0, differ.
 */
export const datasetDigest = (directory: string, type: DatasetType<any>): Effect.Effect<string, ArtifactError> =>
  Effect.gen(function* () {
    const kind = columnsOf(type.row)
    const file = yield* openRows(directory, type)
    return yield* Effect.tryPromise({
      try: async () => {
        const whole = createHash("sha256").update(`caravan dataset 1\n${type.name}\n${describeKind(kind)}\n${file.rowCount}\n`)
        let chunk = createHash("sha256")
        let inChunk = 0
        for (let i = 0; i < file.batches; i++) {
          for (const row of await file.batch(i)) {
            hashValue(chunk, kind, row)
            if (++inChunk === chunkRows) {
              whole.update(chunk.digest())
              chunk = createHash("sha256")
              inChunk = 0
            }
          }
        }
        if (inChunk > 0) whole.update(chunk.digest())
        return whole.digest("hex")
      },
      catch: (cause) => cause as ArtifactError
    }).pipe(Effect.ensuring(Effect.promise(() => file.close())))
  })

const scratch = Buffer.alloc(9)

const hashValue = (hash: Hash, kind: Kind, value: any): void => {
  if (value === null) {
    hash.update("n")
    return
  }
  switch (kind.tag) {
    case "utf8": {
      const bytes = Buffer.from(value as string)
      hash.update(`s${bytes.length}:`).update(bytes)
      return
    }
    case "bool":
      hash.update(value === true ? "t" : "f")
      return
    case "list": {
      const { element } = kind
      hash.update(`l${(value as ReadonlyArray<unknown>).length}:`)
      if (!element.nullable && (element.tag === "int32" || element.tag === "float32" || element.tag === "uint8")) {
        const numbers = (element.tag === "float32" ? Float32Array : Int32Array).from(value as ReadonlyArray<number>)
        hash.update(new Uint8Array(numbers.buffer))
      } else for (const each of value) hashValue(hash, element, each)
      return
    }
    case "struct":
      // Without a tag, a null struct and a struct whose only field is null would hash the same.
      if (kind.nullable) hash.update("o")
      for (const field of kind.fields) hashValue(hash, field.kind, value[field.name])
      return
    default:
      scratch.write("d", 0)
      scratch.writeDoubleLE(value as number, 1)
      hash.update(scratch)
  }
}
