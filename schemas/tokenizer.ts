import * as Effect from "effect/Effect"
import { ArtifactError, type ArtifactType, type TokenizerFiles } from "./artifact.ts"

/** A tokenizer: `tokenizer.model` (SentencePiece), `tokenizer.json` and `tokenizer_config.json`. */
export const TokenizerModel: ArtifactType<TokenizerFiles> = {
  kind: "tokenizer",
  name: "tokenizer",
  accepts: (name) => name === "tokenizer",
  validate: (directory) =>
    Effect.gen(function* () {
      const { existsSync } = yield* Effect.promise(() => import("node:fs"))
      if (!existsSync(`${directory}/tokenizer.model`)) {
        return yield* ArtifactError.of({
          doing: `Reading the tokenizer ${directory}`,
          expected: "a file tokenizer.model",
          found: "none",
          hint: "Pass the folder of a SentencePiece tokenizer."
        })
      }
    })
}
