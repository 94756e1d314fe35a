/** `caravan sample`: a checkpoint's answers to a file of prompts or in a chat, scored by reward models if given. */
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"
import * as Effect from "effect/Effect"
import { hasCuda } from "../../engine/device.ts"
import { deriveSeed } from "../../engine/random.ts"
import { noGrad, scoped } from "../../engine/tensor.ts"
import { type LoadedPolicy, loadPolicyFrom, loadReward } from "../../models/checkpoint.ts"
import { chatFault, encodePrompt, formatOf } from "../../models/chat.ts"
import { Streamer } from "../../models/stream.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Role } from "../../schemas/artifact.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { own } from "../../schemas/own.ts"
import { readJson, roleFile } from "../../schemas/checkpoint-files.ts"
import type { Message } from "../../schemas/rows.ts"
import { scoreOf } from "../../stages/reward/combined-reward.ts"
import { fitDialogue } from "../../stages/common/dialogues.ts"
import { scoreSequences } from "../../stages/common/scoring.ts"
import { type Command, exitCodes, type Given, numberFlag, UsageError, wholeNumber } from "../command.ts"
import { tell, write, writeJsonLine } from "../output.ts"
import { introduction } from "../sample-intro.ts"
import { adapterPath, artifactPath } from "../artifact-path.ts"

/** Where a checkpoint of each role belongs. */
const places: Readonly<Record<string, string>> = {
  policy: "Pass it as the checkpoint argument.",
  "helpfulness-reward": "Pass it with --helpfulness.",
  "safety-reward": "Pass it with --safety."
}
/** A checkpoint's folder. Throws a UsageError if the checkpoint has another role; Hugging Face checkpoints record no role. */
const checkpointFor = async (role: Role, what: string, text: string): Promise<string> => {
  const folder = await artifactPath(text)
  if (!existsSync(join(folder, roleFile))) return folder
  const { role: found } = await Effect.runPromise(readJson(join(folder, roleFile), "Reading the checkpoint's role"))
  if (found === role) return folder
  const hint = own(places, String(found)) ?? "This command does not use checkpoints of that role."
  throw new UsageError(
    `Reading ${what}, ${text}: expected a checkpoint for ${role}, found a checkpoint for ${JSON.stringify(found)}. ${hint}`
  )
}

interface Settings {
  readonly temperature: number
  readonly topP: number
  readonly maxNewTokens: number
  readonly seed: number
}

/** The tokens of a dialogue that ends with a user message. Throws a UsageError if they do not fit into the model's context. */
const promptOf = ({ model, tokenizer }: LoadedPolicy, messages: ReadonlyArray<Message>, maxNewTokens: number): ReadonlyArray<number> => {
  const tokens = encodePrompt(tokenizer, messages)
  const room = model.config.maxPositions - maxNewTokens
  if (tokens.length > room)
    throw new UsageError(
      `The dialogue has ${tokens.length} tokens; with ${maxNewTokens} new tokens that exceeds the model's context of ${model.config.maxPositions}. Shorten the dialogue or lower --max-new-tokens.`
    )
  return tokens
}

interface Answerer {
  readonly policy: LoadedPolicy
  readonly streamer: Streamer
  readonly settings: Settings
}

/** Answers one prompt. `hear` is called with the text so far and returns true to stop. Keys and signals are handled between tokens. */
const answer = async (
  { policy, streamer, settings }: Answerer,
  prompt: ReadonlyArray<number>,
  purpose: ReadonlyArray<string | number>,
  hear: (text: string) => boolean = () => false
): Promise<{ readonly text: string; readonly finished: boolean }> => {
  const { tokenizer } = policy
  const eosId = formatOf(tokenizer).stopIds
  const { maxNewTokens, temperature, topP, seed } = settings
  const said: Array<number> = []
  const options = { maxNewTokens, temperature, topP, eosId, seed: deriveSeed(seed, "caravan sample", ...purpose) }
  let finished = false
  for await (const { token } of streamer.answer(prompt, options)) {
    finished = eosId.includes(token)
    if (finished) break
    said.push(token)
    if (hear(tokenizer.decode(said))) break
  }
  return { text: tokenizer.decode(said).trim(), finished }
}

type Scorer = (messages: ReadonlyArray<Message>, finished: boolean) => number | null

/** A reward model as a function from a dialogue to a score in (0, 1); null if the dialogue does not fit. */
const scorerOf = async (given: Given, kind: "helpfulness" | "safety", device: "cpu" | "cuda"): Promise<Scorer | undefined> => {
  const path = given.flag(kind)
  if (path === undefined) return undefined
  const folder = await checkpointFor(`${kind}-reward`, `the reward model of --${kind}`, path)
  const { model, tokenizer } = await Effect.runPromise(loadReward({ path: folder, type: "", digest: "", contentDigest: "" }, { device }))
  return (messages, finished) => {
    const example = fitDialogue(tokenizer, messages, model.config.maxPositions)
    if (example === undefined) return null
    // As in stages/reward/score.ts: a truncated answer is scored at its last token.
    const tokens = finished ? example.tokens : example.tokens.slice(0, -formatOf(tokenizer).closing)
    return scoreOf(scoped(() => noGrad(() => scoreSequences(model, [tokens], { padId: tokenizer.padId, device }).toNumbers()))[0]!)
  }
}

/** The dialogues in a file: JSONL rows of {prompt} or {messages}, or one prompt per line. */
const readPrompts = async (path: string, system: string | undefined, tokenizer: Tokenizer): Promise<Array<Array<Message>>> => {
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    throw new UsageError(`Reading the prompts ${path}: ${cause.code === "ENOENT" ? "no such file. Check the path" : cause.message}.`)
  })
  const lines = text.split("\n").map((line) => line.trim())
  if (lines.every((line) => line === ""))
    throw new UsageError(`Reading the prompts ${path}: the file has no prompts. Write one prompt per line.`)
  return lines.flatMap((line, i) => {
    if (line === "") return []
    const refuse = (found: string) =>
      new UsageError(
        `Reading the prompts ${path}, line ${i + 1}: ${found}. Each line must be a prompt, or a JSON object with prompt (a string) or messages (ending with a user message).`
      )
    let messages: ReadonlyArray<Message> = [{ role: "user", content: line }]
    if (line.startsWith("{")) {
      let row: { readonly prompt?: unknown; readonly messages?: unknown }
      try {
        row = JSON.parse(line) as typeof row
      } catch {
        throw refuse("it starts like JSON but is not valid JSON")
      }
      const found = typeof row.prompt === "string" ? [{ role: "user", content: row.prompt }] : row.messages
      const isMessage = (one: unknown): one is Message =>
        typeof one === "object" && one !== null && typeof (one as Message).role === "string" && typeof (one as Message).content === "string"
      if (!Array.isArray(found) || !found.every(isMessage)) throw refuse("the object has neither prompt nor messages")
      messages = found
    }
    const whole =
      system === undefined || messages[0]?.role === "system" ? messages : [{ role: "system" as const, content: system }, ...messages]
    const fault = chatFault(tokenizer, whole)
    if (messages.at(-1)?.role !== "user" || fault !== undefined)
      throw refuse(
        `the dialogue does not fit the model's chat format or does not end with a user message${fault === undefined ? "" : ` (${fault.message.replace(/\.$/, "")})`}`
      )
    return [[...whole]]
  })
}

const scoreText = (scores: Readonly<Record<string, number | null>>): string =>
  Object.entries(scores)
    .map(([name, score]) => `${name} ${score === null ? "not scored" : score.toFixed(3)}`)
    .join(", ")

export const command: Command = {
  name: "sample",
  summary:
    "Generates responses from a checkpoint, for a file of prompts or in a chat in the terminal. In the chat, /reset starts over, /system <text> sets the system prompt, Ctrl-C stops a response, and /quit (or Ctrl-C at the prompt) exits.",
  positionals: ["<checkpoint>"],
  flags: {
    prompts: { value: "file", help: "one prompt per line, or JSON rows of {prompt} or {messages}; without it, a chat starts" },
    adapter: { value: "adapter", help: "LoRA adapter to merge in: a folder in PEFT's layout, or a checkpoint trained with LoRA" },
    system: { value: "text", help: "system prompt" },
    temperature: { value: "number", help: "sampling temperature (default: 0.6; 0 is greedy)" },
    "top-p": { value: "number", help: "nucleus sampling (default: 0.9)" },
    "max-new-tokens": { value: "n", help: "maximum tokens per response (default: 256)" },
    helpfulness: { value: "checkpoint", help: "helpfulness reward model that scores each response" },
    safety: { value: "checkpoint", help: "safety reward model that scores each response" },
    seed: { value: "n", help: "random seed (default: 0)" },
    device: { value: "cpu|cuda", help: "device for tensor computation (default: cpu)" },
    json: { help: "print one JSON object per prompt" }
  },
  examples: [
    "caravan sample rlhf-v5",
    "caravan sample path/to/checkpoint",
    "caravan sample hf:meta-llama/Llama-3.2-1B-Instruct",
    "caravan sample path/to/base --adapter path/to/adapter",
    "caravan sample path/to/checkpoint --prompts prompts.txt --temperature 0.6 --json",
    "caravan sample path/to/policy --helpfulness path/to/reward --safety path/to/other-reward"
  ],
  run: async (given) => {
    const device = given.flag("device") ?? "cpu"
    if (device !== "cpu" && device !== "cuda") throw new UsageError(`--device must be cpu or cuda, got "${device}".`)
    if (device === "cuda" && !hasCuda())
      throw new UsageError("No CUDA device was found. Run `caravan doctor` to see why, or use --device cpu.")
    const checkpoint = await checkpointFor("policy", "the policy", given.positionals[0]!)
    const adapter = await adapterPath(given.flag("adapter"))
    const policy = await Effect.runPromise(loadPolicyFrom(checkpoint, { device, adapter }))
    const settings: Settings = {
      temperature: numberFlag(given, "temperature", { min: 0 }) ?? 0.6,
      topP: numberFlag(given, "top-p", { min: 0, max: 1 }) ?? 0.9,
      maxNewTokens: wholeNumber(given, "max-new-tokens", 1) ?? Math.min(256, policy.model.config.maxPositions >> 1),
      seed: wholeNumber(given, "seed", 0) ?? 0
    }
    const scorers = Object.entries({
      helpfulness: await scorerOf(given, "helpfulness", device),
      safety: await scorerOf(given, "safety", device)
    })
    const score = (messages: ReadonlyArray<Message>, text: string, finished: boolean): Record<string, number | null> =>
      Object.fromEntries(
        scorers.flatMap(([name, scorer]) =>
          scorer === undefined ? [] : [[name, text === "" ? null : scorer([...messages, { role: "assistant", content: text }], finished)]]
        )
      )
    const file = given.flag("prompts")
    if (file === undefined && given.has("json")) throw new UsageError("--json needs --prompts <file>.")
    const answerer: Answerer = { policy, streamer: new Streamer(policy.model), settings }
    if (file === undefined) {
      tell(await introduction(given.positionals[0]!, policy.model.config, settings))
      return converse(answerer, given.flag("system"), score)
    }
    const prompts = await readPrompts(file, given.flag("system"), policy.tokenizer)
    // Check every prompt before answering the first.
    const encoded = prompts.map((messages) => promptOf(policy, messages, settings.maxNewTokens))
    for (const [i, messages] of prompts.entries()) {
      const { text, finished } = await answer(answerer, encoded[i]!, [i])
      const scores = score(messages, text, finished)
      if (given.has("json")) writeJsonLine({ messages, answer: text, finished, ...scores })
      else write(`> ${messages.at(-1)!.content}\n${text}\n${Object.keys(scores).length > 0 ? `(${scoreText(scores)})\n` : ""}\n`)
    }
    return exitCodes.ok
  }
}

/** A chat in the terminal, or line by line from a pipe. */
const converse = async (
  answerer: Answerer,
  firstSystem: string | undefined,
  score: (messages: ReadonlyArray<Message>, text: string, finished: boolean) => Record<string, number | null>
): Promise<number> => {
  let system = firstSystem
  let messages: Array<Message> = []
  let [answering, stopped, closed] = [false, false, false]
  const lines = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: process.stdin.isTTY,
    prompt: process.stdin.isTTY ? "> " : ""
  })
  const stop = () => {
    if (answering) stopped = true
    else lines.close()
  }
  // In a terminal, readline receives Ctrl-C as a key; otherwise it arrives as a signal.
  lines.on("SIGINT", stop)
  process.on("SIGINT", stop)
  lines.on("close", () => {
    closed = true
  })

  const reply = async (asked: Array<Message>): Promise<void> => {
    const whole: Array<Message> = system === undefined ? asked : [{ role: "system", content: system }, ...asked]
    const fault = chatFault(answerer.policy.tokenizer, whole)
    if (fault !== undefined) throw new UsageError(`The chat format can't represent that. ${fault.message}`)
    let shown = ""
    const tokens = promptOf(answerer.policy, whole, answerer.settings.maxNewTokens)
    const { text, finished } = await answer(answerer, tokens, [asked.length - 1, asked.at(-1)!.content], (sofar) => {
      const next = sofar.trimStart()
      // Do not print half of a multi-byte character.
      if (!next.endsWith("\ufffd") && next.startsWith(shown)) {
        write(next.slice(shown.length))
        shown = next
      }
      return stopped
    })
    write(`${text.startsWith(shown) ? text.slice(shown.length) : ""}${finished ? "" : " …"}\n`)
    const scores = score(whole, text, finished)
    if (Object.keys(scores).length > 0) write(`(${scoreText(scores)})\n`)
    if (text !== "") messages = [...asked, { role: "assistant", content: text }]
  }

  lines.prompt()
  for await (const given of lines) {
    const line = given.trim()
    if (line === "/quit") break
    if (line === "/reset") messages = []
    else if (line.startsWith("/system")) {
      system = line.slice("/system".length).trim() || undefined
      messages = []
    } else if (line.startsWith("/")) write(`Unknown command ${line.split(" ")[0]}. Use /reset, /system <text> or /quit.\n`)
    else if (line !== "") {
      answering = true
      stopped = false
      // A question that can't be answered does not end the chat.
      await reply([...messages, { role: "user", content: line }]).catch((cause: unknown) => write(`${messageOf(cause)}\n`))
      answering = false
    }
    if (!closed) lines.prompt()
  }
  process.off("SIGINT", stop)
  lines.close()
  return exitCodes.ok
}
