/** From the user's files to typed artifacts: preference pairs, dialogues, checkpoints. */
import { constants, cpSync } from "node:fs"
import { readdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { BadLabel, parseHhRlhf, parseMessages, parsePromptChosenRejected } from "../../data/dialects.ts"
import { readRecords } from "../../data/records.ts"
import { defaultDate } from "../../models/chat-template.ts"
import { type TemplateName, templateNames, templates } from "../../models/chat-templates/index.ts"
import { checkVocabulary, writeRole } from "../../models/checkpoint.ts"
import { loadTokenizer, templateFile } from "../../models/tokenizer/files.ts"
import { checkWeights, loadConfig } from "../../models/weights.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError, type Checkpoint, External, type OutputSlot, type Role, type Written, written } from "../../schemas/artifact.ts"
import { GeneralReward, HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperDate } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { choseUnsafe } from "../common/safety-rule.ts"
import { chatTags, messagesWithoutTags, withoutTags } from "./chat-tags.ts"
import { importRows } from "./import-rows.ts"

/** What the records of a file are called. */
const unitOf = (path: string): Effect.Effect<"line" | "row"> =>
  Effect.promise(async () => {
    for await (const { unit } of readRecords(path)) return unit
    return "line"
  })

/** The error of a file of which some pairs are labelled and those of these lines are not: they were forgotten, or their label was lost. */
const halfLabelled = Effect.fnUntraced(function* (
  path: string,
  lines: ReadonlyArray<number>,
  { pairs, what, lacking, hint }: { readonly pairs: number; readonly what: string; readonly lacking: string; readonly hint: string }
) {
  const unit = yield* unitOf(path)
  const first = lines.slice(0, 5)
  return yield* ArtifactError.of({
    doing: `Importing the pairs of ${path}`,
    expected: `${what} of every pair, or of none`,
    found: `${lines.length} of ${pairs} pairs without ${lacking}, ${first.length < lines.length ? "first " : ""}on ${unit}${first.length > 1 ? "s" : ""} ${first.join(", ")}`,
    hint
  })
})

/** The error of a rating or label that is none of the set. */
const badLabel = Effect.fnUntraced(function* (path: string, { line, field, expected, found }: BadLabel) {
  const unit = yield* unitOf(path)
  return yield* ArtifactError.of({
    doing: `Importing the pairs of ${path}, ${unit} ${line}, field ${field}`,
    expected,
    found,
    hint: "Such a pair is never skipped: fix it, or convert the field of every pair to this scale, and run again."
  })
})

const preferenceWithoutTags = (row: Preference, tags: "refuse" | "escape"): Preference => ({
  ...row,
  prompt: messagesWithoutTags(row.prompt, "prompt", tags),
  chosen: withoutTags(row.chosen, "chosen", tags),
  rejected: withoutTags(row.rejected, "rejected", tags)
})

export const importPreferences = Stage.make("import-preferences", {
  description: "preference pairs from a file (JSONL, JSONL.gz or Parquet)",
  config: Schema.Struct({
    format: hyper(
      "hh-rlhf",
      "hh-rlhf: two transcripts; prompt-chosen-rejected: those fields, and if they are there a rating from 0 to 3, chosenSafe and rejectedSafe",
      ["hh-rlhf", "prompt-chosen-rejected"]
    ),
    source: hyper("", "what to call the pairs' source in statistics"),
    unrated: hyper("fail", "pairs without a rating in a file that has ratings: fail, or keep them, with margin 0", ["fail", "keep"]),
    unlabelled: hyper(
      "fail",
      "pairs without both safety labels in a file that has labels: fail, or keep them, as where helpfulness and safety pairs are in one file",
      ["fail", "keep"]
    ),
    chatTags
  }),
  inputs: { file: External },
  output: Preferences,
  seeded: false,
  run: Effect.fn("import-preferences")(function* ({ config, inputs, output, skipped }) {
    const source = config.source === "" ? config.format : config.source
    const parse = config.format === "hh-rlhf" ? parseHhRlhf : parsePromptChosenRejected
    const { path } = inputs.file
    /** Lines of the pairs without a rating, and of those without both labels. */
    const [unrated, unlabelled]: [Array<number>, Array<number>] = [[], []]
    let [pairs, labels, droppedUnsafe] = [0, 0, 0]
    const counted = (value: unknown, line: number): Preference => {
      const row = preferenceWithoutTags(parse(value, line, source), config.chatTags)
      const known = [row.chosenSafe, row.rejectedSafe].filter((label) => label !== null).length
      pairs++
      labels += known
      if (row.rating === null) unrated.push(line)
      if (known < 2) unlabelled.push(line)
      return row
    }
    const kept = async function* (rows: AsyncIterable<Preference>) {
      for await (const row of rows) {
        if (choseUnsafe(row)) droppedUnsafe++
        else yield row
      }
    }
    const result = yield* importRows(path, counted, skipped, (rows) => writeDataset(output, kept(rows))).pipe(
      Effect.catchDefect((defect) => (defect instanceof BadLabel ? badLabel(path, defect) : Effect.die(defect)))
    )
    // A file without any ratings or labels is as it was made.
    const withoutRating = unrated.length < pairs ? unrated.length : 0
    const withoutLabels = labels > 0 ? unlabelled.length : 0
    if (withoutRating > 0 && config.unrated === "fail")
      return yield* halfLabelled(path, unrated, {
        pairs,
        what: "a rating",
        lacking: "one",
        hint: 'Rate them, or take them out. To learn from them with margin 0, set unrated to "keep".'
      })
    if (withoutLabels > 0 && config.unlabelled === "fail")
      return yield* halfLabelled(path, unlabelled, {
        pairs,
        what: "chosenSafe and rejectedSafe",
        lacking: "one or both",
        hint: 'Label them, or take them out. To keep them, set unlabelled to "keep": the safety rule and the auxiliary loss pass over what has no label.'
      })
    return written(result.slot, { ...result.metrics, droppedUnsafe, withoutRating, withoutLabels })
  })
})

export const importDemonstrations = Stage.make("import-demonstrations", {
  description: "dialogues that end with an answer, from a file of {messages} rows (JSONL, JSONL.gz or Parquet)",
  config: Schema.Struct({ chatTags }),
  inputs: { file: External },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("import-demonstrations")(function* ({ config, inputs, output, skipped }) {
    const parse = (value: unknown, line: number): Demonstration => {
      const row = parseMessages(value, line)
      return { ...row, messages: messagesWithoutTags(row.messages, "messages", config.chatTags) }
    }
    return yield* importRows(inputs.file.path, parse, skipped, (rows) => writeDataset(output, rows))
  })
})

/** What of a model folder is the model: other exports (PyTorch pickles, ONNX) stay behind. */
const modelFiles =
  /^(config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer\.model|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|special_tokens_map\.json|added_tokens\.json)$/

const ModelConfig = Schema.Struct({
  chatTemplate: hyper(
    "own",
    "how dialogues are written: the folder's own chat template (Llama 2's format where it has none), or one by name, which the checkpoint then carries. Qwen 3's own trains last answers alone, qwen3 all of them",
    ["own", ...templateNames]
  ),
  chatDate: hyperDate(defaultDate, "what a chat template that asks for today's date gets; Llama 3.1's takes this one where it is told none")
})

/** Copies a model's folder into the store (by reference where the file system can) and says what the model is for. */
const importModel = <R extends Role>(
  path: string,
  output: OutputSlot<Checkpoint<R>>,
  role: R,
  config: { readonly chatDate: string; readonly chatTemplate: "own" | TemplateName }
): Effect.Effect<Written<Checkpoint<R>>, ArtifactError> =>
  Effect.gen(function* () {
    const shape = yield* loadConfig(path)
    yield* checkWeights(path, shape, role !== "policy" && role !== "safety-classifier")
    const template = config.chatTemplate === "own" ? undefined : templates[config.chatTemplate]
    const tokenizer = yield* loadTokenizer(path, { date: config.chatDate, template })
    yield* checkVocabulary(tokenizer, shape, path)
    yield* Effect.promise(async () => {
      for (const name of await readdir(path))
        if (modelFiles.test(name))
          cpSync(join(path, name), join(output.path, name), { mode: constants.COPYFILE_FICLONE, dereference: true })
      if (template !== undefined) await writeFile(join(output.path, templateFile), template)
      await writeRole(output.path, role, tokenizer)
    })
    return written(output, { layers: shape.layers, dim: shape.dim, vocabSize: shape.vocabSize })
  })

export const importPolicy = Stage.make("import-policy", {
  description: "a model of the Llama line in the Hugging Face layout as a policy",
  config: ModelConfig,
  inputs: { folder: External },
  output: Policy,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-policy")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "policy", config))
})

export const importHelpfulnessReward = Stage.make("import-helpfulness-reward", {
  description: "a reward model of helpfulness in the Hugging Face layout",
  config: ModelConfig,
  inputs: { folder: External },
  output: HelpfulnessReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-helpfulness-reward")(({ config, inputs, output }) =>
    importModel(inputs.folder.path, output, "helpfulness-reward", config)
  )
})

export const importSafetyReward = Stage.make("import-safety-reward", {
  description: "a reward model of safety in the Hugging Face layout",
  config: ModelConfig,
  inputs: { folder: External },
  output: SafetyReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-safety-reward")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "safety-reward", config))
})

export const importGeneralReward = Stage.make("import-general-reward", {
  description: "a reward model of anything, in the Hugging Face layout: an evaluator that takes no part in tuning",
  config: ModelConfig,
  inputs: { folder: External },
  output: GeneralReward,
  inherits: { tokenizer: "folder" },
  seeded: false,
  run: Effect.fn("import-general-reward")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "general-reward", config))
})

export const importPreferencesCost = costOf(importPreferences, { size: ({ inputs }) => inputs.file })
export const importDemonstrationsCost = costOf(importDemonstrations, { size: ({ inputs }) => inputs.file })
export const importPolicyCost = costOf(importPolicy, { size: ({ inputs }) => inputs.folder })
export const importHelpfulnessRewardCost = costOf(importHelpfulnessReward, { size: ({ inputs }) => inputs.folder })
export const importSafetyRewardCost = costOf(importSafetyReward, { size: ({ inputs }) => inputs.folder })
export const importGeneralRewardCost = costOf(importGeneralReward, { size: ({ inputs }) => inputs.folder })
