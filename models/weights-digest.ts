/** The digest of a checkpoint's weights: equal for equal tensors, regardless of the folder and the number of files. */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../schemas/artifact.ts"
import { weightFiles } from "../schemas/checkpoint-files.ts"
import { parameterShapes } from "./config.ts"
import { openSafetensors } from "./safetensors.ts"
import { loadConfig } from "./weights.ts"

/** sha256 in hexadecimal over a language model's tensors sorted by name: for each, its name, dtype and shape in the file, and its bytes. */
export const weightsDigest = (directory: string): Effect.Effect<string, ArtifactError> =>
  Effect.gen(function* () {
    const names = Object.keys(parameterShapes(yield* loadConfig(directory))).sort()
    const files = yield* Effect.forEach(yield* weightFiles(directory), (path) =>
      Effect.acquireRelease(openSafetensors(path), (file) => Effect.promise(() => file.close()))
    )
    const hash = createHash("sha256")
    for (const name of names) {
      const file = files.find(({ entries }) => entries.has(name))
      if (file === undefined) continue // loading the weights reports it
      const { dtype, shape } = file.entries.get(name)!
      const tensor = yield* file.read(name)
      hash.update(`${name} ${dtype} ${shape.join(",")}\n`).update(tensor.toBytes())
      tensor.free()
    }
    return hash.digest("hex")
  }).pipe(Effect.scoped)
