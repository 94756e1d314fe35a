/** Imports the user's model folders as checkpoints. */
import { constants } from "node:fs"
import { copyFile, readdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { defaultDate } from "../../models/chat-template.ts"
import { type TemplateName, templateNames, templates } from "../../models/chat-templates/index.ts"
import { checkVocabulary, writeRole } from "../../models/checkpoint.ts"
import { loadTokenizer, templateFile } from "../../models/tokenizer/files.ts"
import { checkOneLogit, lookAtReward } from "../../models/score-head.ts"
import { checkWeights, loadConfig, lookAtModel } from "../../models/weights.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type ArtifactError, type Checkpoint, External, type OutputSlot, type Role, type Written, written } from "../../schemas/artifact.ts"
import { GeneralReward, HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperDate } from "../../schemas/hyper.ts"
import { costOf } from "../common/cost/estimator.ts"

/** The files of a model folder to import; other exports (PyTorch pickles, ONNX) are ignored. */
const modelFiles =
  /^(config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer\.model|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|special_tokens_map\.json|added_tokens\.json)$/

const ModelConfig = Schema.Struct({
  chatTemplate: hyper(
    "own",
    "chat template: own uses the folder's template (Llama 2's format if there is none); a name selects one of Caravan's, which is then stored in the checkpoint. Qwen 3's own template allows training only on the last answer, qwen3 on all answers",
    ["own", ...templateNames]
  ),
  chatDate: hyperDate(defaultDate, "date for chat templates that print today's date; the default is Llama 3.1's own default")
})

/** Copies a model's folder into the store (by reference if the file system supports it) and writes the model's role. */
const importModel = <R extends Role>(
  path: string,
  output: OutputSlot<Checkpoint<R>>,
  role: R,
  config: { readonly chatDate: string; readonly chatTemplate: "own" | TemplateName }
): Effect.Effect<Written<Checkpoint<R>>, ArtifactError> =>
  Effect.gen(function* () {
    const shape = yield* loadConfig(path)
    const isReward = role !== "policy" && role !== "safety-classifier"
    if (isReward) yield* checkOneLogit(path)
    yield* checkWeights(path, shape, isReward)
    const template = config.chatTemplate === "own" ? undefined : templates[config.chatTemplate]
    const tokenizer = yield* loadTokenizer(path, { date: config.chatDate, template })
    yield* checkVocabulary(tokenizer, shape, path)
    yield* Effect.promise(async () => {
      for (const name of await readdir(path))
        // Follows links, which Hugging Face's cache consists of: with dereference, cpSync treats a link to a file as a folder (Node 24.21).
        if (modelFiles.test(name)) await copyFile(join(path, name), join(output.path, name), constants.COPYFILE_FICLONE)
      if (template !== undefined) await writeFile(join(output.path, templateFile), template)
      await writeRole(output.path, role, tokenizer)
    })
    return written(output, { layers: shape.layers, dim: shape.dim, vocabSize: shape.vocabSize })
  })

export const importPolicy = Stage.make("import-policy", {
  description: "imports a Llama-like model in the Hugging Face layout as a policy",
  config: ModelConfig,
  inputs: { folder: External },
  output: Policy,
  inherits: { tokenizer: "folder" },
  looks: { folder: lookAtModel },
  seeded: false,
  run: Effect.fn("import-policy")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "policy", config))
})

export const importHelpfulnessReward = Stage.make("import-helpfulness-reward", {
  description: "imports a helpfulness reward model in the Hugging Face layout",
  config: ModelConfig,
  inputs: { folder: External },
  output: HelpfulnessReward,
  inherits: { tokenizer: "folder" },
  looks: { folder: lookAtReward },
  seeded: false,
  run: Effect.fn("import-helpfulness-reward")(({ config, inputs, output }) =>
    importModel(inputs.folder.path, output, "helpfulness-reward", config)
  )
})

export const importSafetyReward = Stage.make("import-safety-reward", {
  description: "imports a safety reward model in the Hugging Face layout",
  config: ModelConfig,
  inputs: { folder: External },
  output: SafetyReward,
  inherits: { tokenizer: "folder" },
  looks: { folder: lookAtReward },
  seeded: false,
  run: Effect.fn("import-safety-reward")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "safety-reward", config))
})

export const importGeneralReward = Stage.make("import-general-reward", {
  description: "imports a general reward model in the Hugging Face layout, for evaluation only",
  config: ModelConfig,
  inputs: { folder: External },
  output: GeneralReward,
  inherits: { tokenizer: "folder" },
  looks: { folder: lookAtReward },
  seeded: false,
  run: Effect.fn("import-general-reward")(({ config, inputs, output }) => importModel(inputs.folder.path, output, "general-reward", config))
})

export const importPolicyCost = costOf(importPolicy, { size: ({ inputs }) => inputs.folder })
export const importHelpfulnessRewardCost = costOf(importHelpfulnessReward, { size: ({ inputs }) => inputs.folder })
export const importSafetyRewardCost = costOf(importSafetyReward, { size: ({ inputs }) => inputs.folder })
export const importGeneralRewardCost = costOf(importGeneralReward, { size: ({ inputs }) => inputs.folder })
