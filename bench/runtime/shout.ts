/** The stages of shards.ts: a mapped stage must be exported by a module that is loaded before it runs. */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type ArtifactRef, type Dataset, External } from "../../schemas/artifact.ts"
import { Texts } from "../../schemas/rows.ts"

type Text = typeof Texts.row.Type
const loud = ({ text }: Text): Text => ({ text: text.toUpperCase() })

export const lines = Stage.make("lines", {
  config: Schema.Struct({}),
  inputs: { file: External },
  output: Texts,
  resources: { inProcess: true },
  seeded: false,
  run: ({ inputs, output }) =>
    writeDataset(
      output,
      readFileSync(inputs.file.path, "utf8")
        .split("\n")
        .map((text) => ({ text }))
    )
})
export const body = Effect.fn("body")(function* (
  texts: ArtifactRef<Dataset<Text>>,
  output: { readonly path: string; readonly type: typeof Texts }
) {
  const rows = yield* readRows(texts, Texts)
  return yield* writeDataset(output, rows.map(loud))
})
export const shout = Stage.make("shout", {
  config: Schema.Struct({}),
  inputs: { texts: Texts },
  output: Texts,
  resources: { inProcess: true },
  seeded: false,
  run: ({ inputs, output }) => body(inputs.texts, { path: output.path, type: Texts })
})
export const size = 10
export const shoutInParts = Stage.map(shout, { over: "texts", rows: size })
