/** `caravan logprobs`: the log-probabilities of token sequences under a checkpoint. */
import { readFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import { hasCuda } from "../../engine/device.ts"
import { noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { loadMerged } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { adapterPath, artifactPath } from "../artifact-path.ts"
import { write } from "../output.ts"

/** The log-probability of every token after the first: (T,) -> T - 1 numbers. */
export const logProbabilities = (model: Llama, ids: ReadonlyArray<number>): Array<number> =>
  scoped(() =>
    noGrad(() => {
      if (ids.length < 2) return []
      const { device } = model
      const logits = model.forward(tensor(Int32Array.from(ids.slice(0, -1)), { shape: [1, ids.length - 1], dtype: "int64", device }))
      const next = tensor(Int32Array.from(ids.slice(1)), { shape: [1, ids.length - 1, 1], dtype: "int64", device })
      return logits.to({ dtype: "float32" }).logSoftmax(-1).gather(2, next).toNumbers()
    })
  )

const readIds = async (path: string, model: Llama): Promise<Array<Array<number>>> => {
  const fail = (what: string) =>
    new UsageError(`Reading the ids ${path}: ${what}. Expected a JSON array of arrays of token ids, for example [[1, 15043, 3186]].`)
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    throw fail(cause.code === "ENOENT" ? "no such file" : cause.message)
  })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw fail(`not JSON (${messageOf(cause)})`)
  }
  if (!Array.isArray(value)) throw fail("not an array")
  return value.map((sequence: unknown, i) => {
    if (!Array.isArray(sequence) || sequence.length === 0)
      throw fail(`sequence ${i} is ${Array.isArray(sequence) ? "empty" : "not an array"}`)
    if (sequence.length > model.config.maxPositions)
      throw fail(`sequence ${i} has ${sequence.length} tokens, the model's context is ${model.config.maxPositions}`)
    for (const id of sequence) {
      if (!Number.isInteger(id) || id < 0 || id >= model.config.vocabSize)
        throw fail(`sequence ${i} has ${JSON.stringify(id)}, the model's ids are 0 to ${model.config.vocabSize - 1}`)
    }
    return sequence as Array<number>
  })
}

export const command: Command = {
  name: "logprobs",
  summary: "Prints the log-probability of every token after the first, in float32, for each sequence of token ids.",
  positionals: ["<checkpoint>"],
  flags: {
    ids: { value: "file.json", help: "a JSON array of arrays of token ids" },
    adapter: { value: "adapter", help: "LoRA adapter to merge in: a folder in PEFT's layout, or a checkpoint trained with LoRA" },
    device: { value: "cpu|cuda", help: "device for tensor computation (default: cpu)" },
    json: { help: "print a JSON array of arrays instead of one line per sequence" }
  },
  examples: [
    "caravan logprobs path/to/checkpoint --ids ids.json --json",
    "caravan logprobs sft --ids ids.json",
    "caravan logprobs hf:meta-llama/Llama-3.2-1B --ids ids.json",
    "caravan logprobs path/to/base --adapter path/to/adapter --ids ids.json"
  ],
  run: async (given) => {
    const path = given.flag("ids")
    if (path === undefined) throw new UsageError("caravan logprobs needs --ids <file.json>.")
    const device = given.flag("device") ?? "cpu"
    if (device !== "cpu" && device !== "cuda") throw new UsageError(`--device must be cpu or cuda, got "${device}".`)
    if (device === "cuda" && !hasCuda())
      throw new UsageError("No CUDA device was found. Run `caravan doctor` to see why, or use --device cpu.")
    const [checkpoint, adapter] = [await artifactPath(given.positionals[0]!), await adapterPath(given.flag("adapter"))]
    const model = await Effect.runPromise(loadMerged(checkpoint, adapter, { device }))
    const result = (await readIds(path, model)).map((ids) => logProbabilities(model, ids))
    write(given.has("json") ? `${JSON.stringify(result)}\n` : result.map((row) => `${row.join(" ")}\n`).join(""))
    return exitCodes.ok
  }
}
