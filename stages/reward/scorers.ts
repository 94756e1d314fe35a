/**
 * Rewards of one's own: a scorer wherever a reward model goes, typed by its role. A function of prompt and answer, a program that checks, or a judge: a model behind an
 * OpenAI-compatible endpoint. What a scorer's numbers mean: stages/common/scorer.ts.
 *
 * Its code is copied into the result, so that what is made with it is made again when it changes, and it can be wired to any port of that role.
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
    "what scores: the default export of a JavaScript or TypeScript module, called with (prompt, answer, { id, safety, finished }); a program that reads a line of JSON for each answer ({ prompt, answer, id, safety, finished }) and writes a line with its number; or a judge behind an endpoint",
    ["function", "program", "judge"]
  ),
  command: hyper("", 'program: how it is started, words separated by spaces, in the folder of the code, as "python3 check.py"'),
  timeout: hyper(10, "seconds that a score may take; of the first, the start included", { min: 0.1, max: 86_400 }),
  url: hyperUrl("judge: address of the endpoint, as https://host/v1"),
  model: hyper("", "judge: name of the model"),
  keyVariable: hyperSecretVariable("judge: environment variable that holds the key; empty: none is sent"),
  guideline: hyper("Judge how well it serves the user's request.", "judge: by what it grades, from 0 to 10; grade g is R = (g + 1/2) / 11"),
  concurrency: hyperInt(4, "judge: requests at once", { min: 1 })
})
type ScorerConfig = typeof ScorerConfig.Type

/** `code`: a file, or a folder, which must hold all that it needs besides Node's own modules (of a program: the machine's). */
export const scorerInputs = { code: Stage.optional(External) }

/** A module that a folder may be entered by. */
const entries = ["index.ts", "index.js", "index.mjs"]

const settingsOf = Effect.fnUntraced(function* (
  config: ScorerConfig,
  code: string | undefined
): Effect.fn.Return<ScorerSettings, ArtifactError> {
  const { command, concurrency, guideline, keyVariable, kind, model, timeout, url } = config
  const refuse = (expected: string, found: string, hint: string) =>
    ArtifactError.of({ doing: `Making a scorer of kind ${kind}`, expected, found, hint })
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
    if (code !== undefined) return yield* refuse("no code", code, "Leave the input code out, or set kind to function or program.")
    return { ...common, name: model }
  }
  if (code === undefined)
    return yield* refuse("its code", "none", `Wire the input code, as fileAt("check.ts")${kind === "program" ? ", and set command" : ""}.`)
  if (kind === "program") {
    if (common.command.length === 0)
      return yield* refuse("a command", "none", `Set command to how ${basename(code)} is started, as "python3 check.py".`)
    return { ...common, name: basename(code) }
  }
  if (common.command.length > 0) return yield* refuse("no command", command, "Leave command out, or set kind to program.")
  const isFolder = yield* Effect.promise(async () => (await stat(code)).isDirectory())
  if (!isFolder) {
    if (!/\.(ts|js|mjs)$/.test(code))
      return yield* refuse("a module (.ts, .js, .mjs)", basename(code), "Set kind to program and command to how it is started.")
    return { ...common, name: basename(code) }
  }
  const files = yield* Effect.promise(() => readdir(code))
  const entry = entries.find((name) => files.includes(name))
  if (entry === undefined)
    return yield* refuse(
      `a folder with ${entries.join(" or ")}`,
      files.slice(0, 5).join(", ") || "an empty one",
      "Name the file itself, or add one of these."
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
      await cp(code, (await stat(code)).isDirectory() ? folder : join(folder, basename(code)), { recursive: true })
    }
    const json = (name: string, value: unknown) => writeFile(join(output.path, name), `${JSON.stringify(value, undefined, 2)}\n`)
    await json(roleFile, { format: 1, role })
    await json(scorerFile, settings)
  })
  return written(output)
})

export const helpfulnessScorer = Stage.make("helpfulness-scorer", {
  description: "a function, a program or a judge in the helpfulness reward model's place",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: HelpfulnessReward,
  seeded: false,
  run: Effect.fn("helpfulness-scorer")((context) => makeScorer(context, "helpfulness-reward"))
})

export const safetyScorer = Stage.make("safety-scorer", {
  description: "a function, a program or a judge in the safety reward model's place",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: SafetyReward,
  seeded: false,
  run: Effect.fn("safety-scorer")((context) => makeScorer(context, "safety-reward"))
})

export const generalScorer = Stage.make("general-scorer", {
  description: "a function, a program or a judge that takes no part in tuning: a guard against reward hacking (§3.4.1)",
  config: ScorerConfig,
  inputs: scorerInputs,
  output: GeneralReward,
  seeded: false,
  run: Effect.fn("general-scorer")((context) => makeScorer(context, "general-reward"))
})

export const helpfulnessScorerCost = costOf(helpfulnessScorer, { size: () => sized(unknownSize, { isScorer: true }) })
export const safetyScorerCost = costOf(safetyScorer, helpfulnessScorerCost)
export const generalScorerCost = costOf(generalScorer, helpfulnessScorerCost)
