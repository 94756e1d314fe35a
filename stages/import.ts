/** From the user's files to typed artifacts: preference pairs, dialogues, checkpoints. */
import { constants, cpSync } from "node:fs"
import { readdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../data/dataset.ts"
import { parseHhRlhf, parseMessages, parsePromptChosenRejected } from "../data/dialects.ts"
import { BadRowsError, newCounts, type ReadCounts, readParsed } from "../data/records.ts"
import { checkVocabulary } from "../models/checkpoint.ts"
import { loadConfig } from "../models/weights.ts"
import { loadTokenizer } from "../models/tokenizer/index.ts"
import * as Stage from "../runtime/stage.ts"
import { ArtifactError, type Checkpoint, External, type OutputSlot, type Role, type Written, written } from "../schemas/artifact.ts"
import { roleFile } from "../schemas/checkpoint-files.ts"
import { GeneralReward, HelpfulnessReward, Policy, SafetyReward } from "../schemas/checkpoint.ts"
import { hyper } from "../schemas/hyper.ts"
import { Demonstrations, type Preference, Preferences } from "../schemas/rows.ts"

const maxBad = hyper(0.01, "share of rows that may not fit before the run stops; the others are skipped and counted", { min: 0, max: 1 })

/** Streams the parsed rows of a file into the output; what the file is at fault for comes out as its error. */
const importRows = <Row>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  bad: number,
  write: (rows: AsyncIterable<Row>, counts: ReadCounts) => Effect.Effect<Written<any>>
) => {
  const counts = newCounts()
  return write(readParsed(path, parse, counts, { maxBad: bad }), counts).pipe(
    Effect.map((result) => written(result.slot, { ...result.metrics, rowsRead: counts.rows, rowsSkipped: counts.bad })),
    Effect.catchDefect((defect) =>
      defect instanceof BadRowsError || defect instanceof ArtifactError ? Effect.fail(defect) : Effect.die(defect)
    )
  )
}

export const importPreferences = Stage.make("import-preferences", {
  description: "preference pairs from a file (JSONL, JSONL.gz or Parquet)",
  config: Schema.Struct({
    format: hyper(
      "hh-rlhf",
      "hh-rlhf: two transcripts; prompt-chosen-rejected: those fields, and if they are there a rating from 0 to 3, chosenSafe and rejectedSafe",
      ["hh-rlhf", "prompt-chosen-rejected"]
    ),
    source: hyper("", "what to call the pairs' source in statistics"),
    maxBad
  }),
  inputs: { file: External },
  output: Preferences,
  seeded: false,
  run: Effect.fn("import-preferences")(function* ({ config, inputs, output }) {
    const source = config.source === "" ? config.format : config.source
    const parse = config.format === "hh-rlhf" ? parseHhRlhf : parsePromptChosenRejected
    let [rated, unrated] = [0, 0]
    const counted = (value: unknown, line: number): Preference => {
      const row = parse(value, line, source)
      if (row.rating === null) unrated++
      else rated++
      return row
    }
    return yield* importRows(inputs.file.path, counted, config.maxBad, (rows) =>
      // In a file of rated pairs one without a rating is likely a mistake: its margin is 0.
      Effect.map(writeDataset(output, rows), (result) =>
        written(result.slot, { ...result.metrics, withoutRating: rated > 0 ? unrated : 0 })
      )
    )
  })
})

export const importDemonstrations = Stage.make("import-demonstrations", {
  description: "dialogues that end with an answer, from a file of {messages} rows (JSONL, JSONL.gz or Parquet)",
  config: Schema.Struct({ maxBad }),
  inputs: { file: External },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("import-demonstrations")(function* ({ config, inputs, output }) {
    return yield* importRows(inputs.file.path, parseMessages, config.maxBad, (rows) => writeDataset(output, rows))
  })
})

/** What of a model folder is the model: other exports (PyTorch pickles, ONNX) stay behind. */
const modelFiles =
  /^(config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer\.model|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json)$/

/** Copies a model's folder into the store (by reference where the file system can) and says what the model is for. */
const importModel = <R extends Role>(
  path: string,
  output: OutputSlot<Checkpoint<R>>,
  role: R
): Effect.Effect<Written<Checkpoint<R>>, ArtifactError> =>
  Effect.gen(function* () {
    const config = yield* loadConfig(path)
    const tokenizer = yield* loadTokenizer(path)
    yield* checkVocabulary(tokenizer, config, path)
    yield* Effect.promise(async () => {
      for (const name of await readdir(path))
        if (modelFiles.test(name))
          cpSync(join(path, name), join(output.path, name), { mode: constants.COPYFILE_FICLONE, dereference: true })
      await writeFile(join(output.path, roleFile), `${JSON.stringify({ format: 1, role }, undefined, 2)}\n`)
    })
    return written(output, { layers: config.layers, dim: config.dim, vocabSize: config.vocabSize })
  })

export const importPolicy = Stage.make("import-policy", {
  description: "a Llama in the Hugging Face layout as a policy",
  config: Schema.Struct({}),
  inputs: { folder: External },
  output: Policy,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-policy")(({ inputs, output }) => importModel(inputs.folder.path, output, "policy"))
})

export const importHelpfulnessReward = Stage.make("import-helpfulness-reward", {
  description: "a reward model of helpfulness in the Hugging Face layout",
  config: Schema.Struct({}),
  inputs: { folder: External },
  output: HelpfulnessReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-helpfulness-reward")(({ inputs, output }) => importModel(inputs.folder.path, output, "helpfulness-reward"))
})

export const importSafetyReward = Stage.make("import-safety-reward", {
  description: "a reward model of safety in the Hugging Face layout",
  config: Schema.Struct({}),
  inputs: { folder: External },
  output: SafetyReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-safety-reward")(({ inputs, output }) => importModel(inputs.folder.path, output, "safety-reward"))
})

export const importGeneralReward = Stage.make("import-general-reward", {
  description: "a reward model of anything, in the Hugging Face layout: a judge that takes no part in tuning",
  config: Schema.Struct({}),
  inputs: { folder: External },
  output: GeneralReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-general-reward")(({ inputs, output }) => importModel(inputs.folder.path, output, "general-reward"))
})
