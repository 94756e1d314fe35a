/** The introduction to a chat in `caravan sample`: the model, the available commands, and example questions for models of the small world. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { familyNames, type LlamaConfig, parameterCount } from "../models/config.ts"
import { locate } from "../runtime/inspect/resolve.ts"
import { findHome } from "../runtime/store/home.ts"
import { Journal } from "../runtime/store/journal.ts"
import { isHubName } from "../schemas/hub-name.ts"
import { exampleQuestions } from "../stages/world/example-questions.ts"
import { number } from "./display/numbers.ts"
import { withStore } from "./open-store.ts"

/** The node that made a checkpoint of this store, and whether its run trained on the small world; undefined for any other folder. */
const origin = async (
  text: string
): Promise<{ readonly node: string; readonly pipeline: string; readonly isWorld: boolean } | undefined> => {
  if (isHubName(text) || !existsSync(join(findHome(process.cwd()), "journal.db"))) return undefined
  return withStore(
    Effect.gen(function* () {
      const journal = yield* Journal
      const located = yield* locate(text)
      if (located.kind === "file") return undefined
      const made = located.execution ?? (yield* journal.executionsWith(located.digest, "any")).at(-1)
      if (made === undefined) return undefined
      const stages = (yield* journal.executionsOf(made.run)).map(({ stage }) => stage)
      return { node: made.node, pipeline: made.pipeline, isWorld: stages.some((stage) => stage.startsWith("world-")) }
    })
  )
}

const millions = (parameters: number): string =>
  parameters >= 1e9 ? `${number(parameters / 1e9)} billion` : parameters >= 1e5 ? `${number(parameters / 1e6)} million` : number(parameters)

/** `text`: the checkpoint as named by the user. */
export const introduction = async (
  text: string,
  config: LlamaConfig,
  { maxNewTokens, temperature, topP }: { readonly maxNewTokens: number; readonly temperature: number; readonly topP: number }
): Promise<string> => {
  const from = await origin(text)
  return [
    `Chat with ${from === undefined ? text : `${from.node} of ${from.pipeline}`}: a ${familyNames[config.family]} model with ${millions(parameterCount(config))} parameters and a context of ${config.maxPositions} tokens.`,
    `Answers: temperature ${temperature}, top-p ${topP}, at most ${maxNewTokens} tokens.`,
    "Type a message and press Enter. /reset starts over, /system <text> sets the system prompt, /quit ends. Ctrl-C stops an answer, or exits at the prompt.",
    ...(from?.isWorld === true
      ? [
          "It only knows the generated small world of its pipeline. Example questions:",
          ...exampleQuestions().map((question) => `  ${question}`)
        ]
      : []),
    ""
  ]
    .map((line) => `${line}\n`)
    .join("")
}
