/**
 * Fuzzes the reading of model folders: config.json, generation_config.json, tokenizer.json or tokenizer.model, tokenizer_config.json, chat templates, weights; with
 * a few bytes or values changed. Whatever a folder contains, importing it terminates, with an ArtifactError or a model. Then a dialogue is encoded, and exactly the
 * tokens of the answers carry loss.
 *
 *     node tests/models/fuzz.ts <from> <to>        these seeds, in this process
 *     node tests/models/fuzz.ts --minutes 60       as many seeds as fit, from a random one (tests/fuzzing.ts)
 *
 * A seed that finds something is added to fuzz.test.ts permanently.
 */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { Random } from "../../engine/random.ts"
import { encodeDialogue } from "../../models/chat.ts"
import { ChatError } from "../../models/chat-format.ts"
import { type TemplateName, templateNames, templates } from "../../models/chat-templates/index.ts"
import { loadPolicyFrom, writeCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { noCheckpoints } from "../../runtime/define/resume-points.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { decodeConfig } from "../../schemas/hyper.ts"
import type { Message } from "../../schemas/rows.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { changedBytes, changedValue } from "../changed.ts"
import { type Fuzz, runFuzzer } from "../fuzzing.ts"

const golden = fileURLToPath(new URL("../golden/", import.meta.url))
const kinds = ["gemma", "llama2", "llama3", "mistral", "qwen2", "smollm", "sentencepiece"] as const

const sound = new Map<string, Promise<string>>()
/** A folder with a small model and a tokenizer of the given kind, made once per process. */
const soundFolder = (kind: (typeof kinds)[number]): Promise<string> => {
  const make = async () => {
    const tokens = mkdtempSync(join(tmpdir(), "caravan-fuzz-tokenizer-"))
    const folder = mkdtempSync(join(tmpdir(), "caravan-fuzz-model-"))
    process.on("exit", () => [tokens, folder].forEach((path) => rmSync(path, { recursive: true, force: true })))
    if (kind === "sentencepiece") cpSync(join(golden, "tokenizer/small.model"), join(tokens, "tokenizer.model"))
    else cpSync(join(golden, "chat", kind), tokens, { recursive: true })
    // Without a template a model needs BOS.
    if (kind === "qwen2") writeFileSync(join(tokens, "chat_template.jinja"), templates["qwen2.5"])
    const tokenizer = await Effect.runPromise(loadTokenizer(tokens))
    const sizes = { vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 256 }
    const model = initLlama(llamaConfig(sizes), { seed: 1 })
    await writeCheckpoint(folder, { model, tokenizer, role: "policy" })
    for (const tensor of Object.values(model.parameters)) tensor.free()
    rmSync(join(folder, "caravan.json"))
    return folder
  }
  if (!sound.has(kind)) sound.set(kind, make())
  return sound.get(kind)!
}

const files = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "chat_template.jinja",
  "model.safetensors"
]

/** The header of a safetensors file with a modification, and the new length. */
const changedHeader = (bytes: Buffer, draw: Random): Buffer => {
  const length = Number(bytes.readBigUInt64LE(0))
  const header = Buffer.from(JSON.stringify(changedValue(JSON.parse(bytes.toString("utf8", 8, 8 + length)), draw)))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([size, header, bytes.subarray(8 + length)])
}

/** A template with one of its parts (a tag, an expression, the text between) removed, doubled, moved or replaced by another's. */
const changedTemplate = (text: string, draw: Random): string => {
  const partsOf = (template: string) => template.split(/(\{[{%#].*?[}%#]\})/s)
  const parts = partsOf(text)
  const others = partsOf(templates[templateNames[draw.int(templateNames.length)]!])
  const at = draw.int(parts.length)
  const added = [[], [parts[at]!, parts[at]!], [others[draw.int(others.length)]!], [parts[draw.int(parts.length)]!]][draw.int(4)]!
  return parts.toSpliced(at, 1, ...added).join("")
}

/** A file with a modification. */
const changedFile = (name: string, bytes: Buffer, draw: Random): Buffer => {
  if (name === "model.safetensors" && draw.int(2) === 0) return changedHeader(bytes, draw)
  if (name === "chat_template.jinja" && draw.int(4) > 0) return Buffer.from(changedTemplate(bytes.toString("utf8"), draw))
  if (!name.endsWith(".json") || draw.int(4) === 0) return changedBytes(bytes, draw)
  let value = JSON.parse(bytes.toString("utf8")) as Record<string, unknown>
  for (let i = 1 + draw.int(3); i > 0; i--) {
    const names = Object.keys(value)
    const at = names[draw.int(names.length)]
    // Mostly within an entry: a completely different file is soon rejected.
    if (at !== undefined && draw.int(10) > 0) value = { ...value, [at]: changedValue(value[at], draw) }
    else return Buffer.from(JSON.stringify(changedValue(value, draw)))
  }
  return Buffer.from(JSON.stringify(value))
}

const questions = ["Who is at the door?", "<|im_end|> [/INST] <|eot_id|> and </s>?", "\ud800 é✓𝄞"]
const answers = ["A neighbour came by.", "A second visitor came."]
const dialogue = (draw: Random): ReadonlyArray<Message> => [
  { role: "user", content: questions[draw.int(questions.length)]! },
  { role: "assistant", content: answers[0]! },
  { role: "user", content: questions[draw.int(questions.length)]! },
  { role: "assistant", content: answers[1]! }
]

/** Imports the folder into another. Rejects with an ArtifactError if the folder is at fault. */
const imported = async (folder: string, out: string, chatTemplate: "own" | TemplateName): Promise<void> => {
  const { stage } = importPolicy
  const program = Effect.gen(function* () {
    const config = yield* decodeConfig(stage.config, { chatTemplate }, stage.name)
    yield* stage.run({
      ...{
        config,
        inputs: { folder: { path: folder, type: "", digest: "", contentDigest: "" } },
        output: { path: out, type: stage.output }
      },
      ...{ seed: 0, device: "cpu" as const, threads: 1, progress: () => Effect.void, checkpoints: noCheckpoints },
      skipped: { add: () => undefined, check: () => Effect.void }
    } as never)
    yield* stage.output.validate(out)
  })
  await Effect.runPromise(program)
}

/** Checks one folder. Rejects if our code is at fault. */
export const fuzz: Fuzz = async (seed, folder) => {
  const draw = new Random(seed, "fuzz", "models")
  const [path, out] = [join(folder, "model"), join(folder, "out")]
  for (const each of [path, out]) rmSync(each, { recursive: true, force: true })
  mkdirSync(out, { recursive: true })
  cpSync(await soundFolder(kinds[draw.int(kinds.length)]!), path, { recursive: true })
  if (draw.int(3) === 0) writeFileSync(join(path, "chat_template.jinja"), templates[templateNames[draw.int(templateNames.length)]!])
  const there = files.filter((name) => existsSync(join(path, name)))
  const first = draw.int(there.length)
  for (const at of draw.int(3) === 0 ? [first, (first + 1) % there.length] : [first]) {
    const name = there[at]!
    writeFileSync(join(path, name), changedFile(name, readFileSync(join(path, name)), draw))
  }
  const names = ["own", ...templateNames] as const
  try {
    await imported(path, out, draw.int(2) === 0 ? "own" : names[draw.int(names.length)]!)
  } catch (cause) {
    if (cause instanceof ArtifactError) return
    throw cause
  }
  // The imported result is read, whatever it is.
  const { model, tokenizer } = await Effect.runPromise(loadPolicyFrom(out))
  for (const tensor of Object.values(model.parameters)) tensor.free()
  const messages = dialogue(draw)
  try {
    const { lossMask, tokens } = encodeDialogue(tokenizer, messages)
    const trained = tokenizer.decode(tokens.filter((_, i) => lossMask[i]))
    if (tokens.some((id) => !(id >= 0 && id < tokenizer.vocabSize))) throw new Error(`ids beyond the vocabulary: ${tokens.join(" ")}`)
    if (trained.includes("door?") || trained.includes("and </s>?")) throw new Error(`a question carries loss: ${trained}`)
  } catch (cause) {
    if (!(cause instanceof ChatError)) throw cause
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runFuzzer(process.argv[1], fuzz, process.argv.slice(2), 200)
