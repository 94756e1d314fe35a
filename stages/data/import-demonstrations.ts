/** Imports dialogues and running text from the user's files. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDatasetBatches } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { External } from "../../schemas/artifact.ts"
import { hyper, hyperNames } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations, Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { chatTags, messagesWithoutTags } from "./chat-tags.ts"
import { columnsGiving, importRows, shapeHyper } from "./import-rows.ts"

export const importDemonstrations = Stage.make("import-demonstrations", {
  description: "§3.1 dialogues that end with an answer, from files of any supported shape",
  config: Schema.Struct({
    shape: shapeHyper("demonstrations"),
    map: hyperNames(
      'the file\'s columns for the shape\'s fields, for example { prompt: "question", completion: "answer" }',
      columnsGiving("demonstrations")
    ),
    chatTags
  }),
  inputs: { file: External },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("import-demonstrations")(function* ({ config, inputs, output, progress, skipped }) {
    const check = (row: Demonstration): Demonstration => ({
      ...row,
      messages: messagesWithoutTags(row.messages, "messages", config.chatTags)
    })
    const from = { path: inputs.file.path, kind: "demonstrations" as const, shape: config.shape, map: config.map }
    return yield* importRows(from, check, { progress, skipped }, (batches) => writeDatasetBatches(output, batches))
  })
})

export const importTexts = Stage.make("import-texts", {
  description: "running text for pretraining, from plain text files or rows of text",
  config: Schema.Struct({
    shape: shapeHyper("texts"),
    map: hyperNames('the file\'s column with the text, for example { text: "content" }', columnsGiving("texts")),
    documents: hyper("line", "the unit of text in a plain text file: a line, a paragraph (separated by blank lines) or the whole file", [
      "line",
      "paragraph",
      "file"
    ])
  }),
  inputs: { file: External },
  output: Texts,
  seeded: false,
  run: Effect.fn("import-texts")(function* ({ config, inputs, output, progress, skipped }) {
    const from = { path: inputs.file.path, kind: "texts" as const, shape: config.shape, map: config.map, documents: config.documents }
    return yield* importRows(
      from,
      (row) => row,
      { progress, skipped },
      (batches) => writeDatasetBatches(output, batches)
    )
  })
})

export const importDemonstrationsCost = costOf(importDemonstrations, { size: ({ inputs }) => inputs.file })
export const importTextsCost = costOf(importTexts, { size: ({ inputs }) => inputs.file })
