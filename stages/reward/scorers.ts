/**
 * Your own rewards. A scorer is a function of prompt and answer, a program, or a judge (a model behind an OpenAI-compatible endpoint). It has a role, and
 * can be used wherever a reward model of that role can. stages/common/scorer.ts defines the meaning of its numbers.
 *
 * Its code is copied into the result, so that changing the code invalidates all results that depend on it.
 */
import { cp, mkdir, readdir, stat, writeFile } from "node:fs/promises"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError, External, type Checkpoint, type Role, written } from "../../schemas/artifact.ts"
import { roleFile, scorerFile } from "../../schemas/checkpoint-files.ts"
import { GeneralReward, HelpfulnessReward, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt, hyperSecretVariable, hyperUrl } from "../../schemas/hyper.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"
import { codeFolder, type ScorerSettings } from "../common/scorer.ts"

export const ScorerConfig = Schema.Struct({
  kind: hyper(
    "function",
    "kind of scorer: function, the default export of a JavaScript or TypeScript module, called with (prompt, answer, { id, safety, finished }); program, which reads one line of JSON per answer ({ prompt, answer, id, safety, finished }) and writes one line with its number; judge, a model behind an endpoint",
    ["function", "program", "judge"]
  ),
  command: hyper(
    "",
    'program: command line that starts it in the folder of the code, words separated by spaces, for example "python3 check.py"'
  ),
  timeout: hyper(10, "maximum duration of one score in seconds; the first score includes starting the scorer", { min: 0.1, max: 86_400 }),
  url: hyperUrl("judge: URL of the OpenAI-compatible endpoint, for example https://host/v1"),
  model: hyper("", "judge: name of the model at the endpoint"),
  keyVariable: hyperSecretVariable("judge: name of the environment variable with the API key; empty: no key is sent"),
  guideline: hyper(
    "Judge how well it serves the user's request.",
    "judge: grading guideline in its prompt; it grades from 0 to 10, and grade g gives R = (g + 1/2) / 11"
  ),
  concurrency: hyperInt(4, "judge: maximum number of concurrent requests", { min: 1 })
})
type ScorerConfig = typeof ScorerConfig.Type

/** `code`: a file or folder with all code that the scorer needs, except Node's built-in modules (for a program: except software on the machine). */
export const scorerInputs = { code: Stage.optional(External) }

/** The entry modules of a folder. */
const entries = ["index.ts", "index.js", "index.mjs"]

const settingsOf = Effect.fnUntraced(function* (
  config: ScorerConfig,
  code: string | undefined
): Effect.fn.Return<ScorerSettings, ArtifactError> {
  const { command, concurrency, guideline, keyVariable, kind, model, timeout, url } = config
  const refuse = (expected: string, found: string, hint: string) =>
    ArtifactError.of({ doing: `Creating a scorer of kind ${kind}`, expected, found, hint })
  const common = {
    kind,
    command: command.split(/\s+/).filter((word) => word !== ""),
    url,
    model,
    keyVariable,
    guideline,
    concurrency,
    timeout
  }
  if (kind === "judge") {
    if (code !== undefined) return yield* refuse("no code", code, "Remove the input code, or set kind to function or program.")
    return { ...common, name: model }
  }
  if (code === undefined)
    return yield* refuse(
      "its code",
      "none",
      `Connect the input code, for example fileAt("check.ts")${kind === "program" ? ", and set command" : ""}.`
    )
  if (kind === "program") {
    if (common.command.length === 0)
      return yield* refuse("a command", "none", `Set command to the command that starts ${basename(code)}, for example "python3 check.py".`)
    return { ...common, name: basename(code) }
  }
  if (common.command.length > 0) return yield* refuse("no command", command, "Remove command, or set kind to program.")
  const isFolder = yield* Effect.promise(async () => (await stat(code)).isDirectory())
  if (!isFolder) {
    if (!/\.(ts|js|mjs)$/.test(code))
      return yield* refuse("a module (.ts, .js, .mjs)", basename(code), "Set kind to program and command to the command that starts it.")
    return { ...common, name: basename(code) }
  }
  const files = yield* Effect.promise(() => readdir(code))
  const entry = entries.find((name) => files.includes(name))
  if (entry === undefined)
    return yield* refuse(
      `a folder with ${entries.join(" or ")}`,
      files.slice(0, 5).join(", ") || "an empty folder",
      "Pass the file itself, or add one of these files."
    )
  return { ...common, name: entry }
})

const makeScorer = Effect.fn("makeScorer")(function* <R extends Role>(
  { config, inputs, output }: Stage.Context<typeof ScorerConfig, typeof scorerInputs, Checkpoint<R>>,
  role: R
) {
  const code = inputs.code?.path
  const settings = yield* settingsOf(config, code)
  yield* Effect.promise(async () => {
    if (code !== undefined) {
      const folder = join(output.path, codeFolder)
      await mkdir(folder)
      await cp(code, (await stat(code)).isDirectory() ? folder : join(folder, basename(code)), {
        recursive: true,
        // A result may not contain links, and folders with node_modules do.
        dereference: true
      })
    }
    const json = (name: string, value: unknown) => writeFile(join(output.path, name), `${JSON.stringify(value, undefined, 2)}\n`)
    await json(roleFile, { format: 1, role })
    await json(scorerFile, settings)
  })
  return written(output)
})

export const helpfulnessScorer = Stage.make("helpfulness-scorer", {
  description: "uses a function, a program or a judge as the helpfulness reward model",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: HelpfulnessReward,
  seeded: false,
  run: Effect.fn("helpfulness-scorer")((context) => makeScorer(context, "helpfulness-reward"))
})

export const safetyScorer = Stage.make("safety-scorer", {
  description: "uses a function, a program or a judge as the safety reward model",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: SafetyReward,
  seeded: false,
  run: Effect.fn("safety-scorer")((context) => makeScorer(context, "safety-reward"))
})

export const generalScorer = Stage.make("general-scorer", {
  description: "uses a function, a program or a judge as the general reward model, a guard against reward hacking (§3.4.1)",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: GeneralReward,
  seeded: false,
  run: Effect.fn("general-scorer")((context) => makeScorer(context, "general-reward"))
})

export const helpfulnessScorerCost = costOf(helpfulnessScorer, { size: () => sized(unknownSize, { isScorer: true }) })
export const safetyScorerCost = costOf(safetyScorer, helpfulnessScorerCost)
export const generalScorerCost = costOf(generalScorer, helpfulnessScorerCost)
