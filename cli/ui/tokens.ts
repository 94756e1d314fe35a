/**
 * A row as a model sees it: its tokens, which of them contribute to the loss, and their log-probabilities under a checkpoint and a reference. The
 * log-probabilities come from `caravan logprobs`, which runs in a separate process, one at a time.
 */
import { execFile } from "node:child_process"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { encodeDialogue, encodePrompt } from "../../models/chat.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import { messageOf } from "../../runtime/errors.ts"
import { sizeOf } from "../../runtime/store/objects.ts"
import type { Completion, Demonstration, Message, Preference, ResponsePair, TokenSequence } from "../../schemas/rows.ts"
import { BadRequest, Broken, type TokensView } from "./api.ts"
import { batchesFrom, openDataset, placeOf, readBatch } from "./rows.ts"
import { wire } from "./runs.ts"

/** Maximum size of a checkpoint loaded to inspect a row, in bytes: a larger one would need minutes and the machine's memory. */
const largestModel = 4 * 2 ** 30
const timeLimit = 120_000
const maxTokens = 8192

interface Sequence {
  readonly ids: ReadonlyArray<number>
  readonly mask: ReadonlyArray<boolean>
  /** The values recorded during sampling. */
  readonly recorded?: ReadonlyArray<number | null>
}

type Side = "chosen" | "rejected" | "responseA" | "responseB"

const dialogue = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>, lastAlone = false): Sequence => {
  const { lossMask, tokens } = encodeDialogue(tokenizer, messages)
  // Ghost Attention: only the last answer contributes to the loss.
  const from = lastAlone ? lossMask.lastIndexOf(false, lossMask.lastIndexOf(true)) : -1
  return { ids: tokens, mask: lossMask.map((trained, i) => trained && i > from) }
}

/** The tokens of a row, by its type. Throws ChatError if the chat format can't represent it. */
const sequenceOf = (
  type: string,
  row: Readonly<Record<string, unknown>>,
  tokenizer: Tokenizer,
  side: Side | undefined
): Sequence | undefined => {
  const kind = type.split("/")[0]
  if (kind === "token-sequence") {
    const { lossMask, tokens } = row as unknown as TokenSequence
    return { ids: tokens, mask: lossMask.map((value) => value === 1) }
  }
  if (kind === "demonstration") {
    const { loss, messages } = row as unknown as Demonstration
    return dialogue(tokenizer, messages, loss === "last-answer")
  }
  if (kind === "preference") {
    const { chosen, prompt, rejected } = row as unknown as Preference
    return dialogue(tokenizer, [...prompt, { role: "assistant", content: side === "rejected" ? rejected : chosen }])
  }
  if (kind === "response-pair") {
    const { prompt, responseA, responseB } = row as unknown as ResponsePair
    return dialogue(tokenizer, [...prompt, { role: "assistant", content: side === "responseB" ? responseB : responseA }])
  }
  if (kind === "completion" || kind === "scored-completion") {
    const { logProbabilities, prompt, tokens } = row as unknown as Completion
    const before = encodePrompt(tokenizer, prompt)
    return {
      ids: [...before, ...tokens],
      mask: [...before.map(() => false), ...tokens.map(() => true)],
      recorded: [...before.map(() => null), ...logProbabilities]
    }
  }
  return undefined
}

/** A token's text: a control token by its name, an incomplete UTF-8 byte by its number. */
const textOf = (tokenizer: Tokenizer, id: number): string => {
  const piece = tokenizer.pieces[id]
  if (piece === undefined) return `<${id}>`
  if (piece.type === "normal" || piece.type === "user-defined") return piece.text.replaceAll("\u2581", " ")
  const code = piece.type === "byte" ? Number.parseInt(piece.text.slice(3, 5), 16) : 0
  return code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : piece.text
}

const one = Semaphore.makeUnsafe(1)
/** The same path in a clone and in the package: cli/caravan.js is next to package.json. */
const command = join(dirname(createRequire(import.meta.url).resolve("caravan/package.json")), "cli/caravan.js")

/** The log-probability of every token after the first. */
const scored = (digest: string, ids: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const { artifact, path } = yield* placeOf(digest)
    if (!artifact.type.startsWith("checkpoint:policy"))
      return yield* new BadRequest({
        message: `The result ${digest.slice(0, 12)} is a ${artifact.type}, which has no token probabilities. Choose a policy.`
      })
    const size = yield* Effect.promise(() => sizeOf(path))
    if (size > largestModel)
      return yield* new BadRequest({
        message: `The checkpoint ${digest.slice(0, 12)} has ${Math.round(size / 2 ** 30)} GiB, which is too large to load for one row. Use caravan logprobs ${digest.slice(0, 12)} --ids file.json, with --device cuda.`
      })
    return yield* Effect.tryPromise({
      try: async (signal) => {
        const folder = await mkdtemp(join(tmpdir(), "caravan-tokens-"))
        try {
          const file = join(folder, "ids.json")
          await writeFile(file, JSON.stringify([ids]))
          const { stdout } = await promisify(execFile)(process.execPath, [command, "logprobs", path, "--ids", file, "--json"], {
            signal,
            timeout: timeLimit,
            maxBuffer: 1 << 26
          })
          return (JSON.parse(stdout) as Array<Array<number>>)[0]!
        } finally {
          await rm(folder, { recursive: true, force: true })
        }
      },
      catch: (cause) =>
        new Broken({
          message: `Computing log-probabilities with the checkpoint ${digest.slice(0, 12)}: ${((cause as { readonly stderr?: string }).stderr ?? "").trim() || messageOf(cause)}`
        })
    }).pipe(one.withPermits(1))
  })

export interface Asked {
  readonly digest: string
  readonly row: number
  readonly model: string
  readonly score?: "yes" | undefined
  readonly reference?: string | undefined
  readonly side?: Side | undefined
}

export const tokensView = ({ digest, model, reference, row: index, score, side }: Asked) =>
  Effect.gen(function* () {
    const { file, type } = yield* openDataset(digest)
    const place = batchesFrom(file, index)[0]
    if (place === undefined)
      return yield* new BadRequest({ message: `Row ${index} does not exist: the dataset has ${file.rowCount} rows.` })
    const [row] = yield* readBatch(file, place.batch, Uint32Array.of(index - place.first))
    const tokenizer = yield* Effect.mapError(
      loadTokenizer((yield* placeOf(model)).path),
      (error) => new BadRequest({ message: messageOf(error) })
    )
    const sequence = yield* Effect.try({
      try: () => sequenceOf(type, row!, tokenizer, side),
      catch: (cause) => new BadRequest({ message: messageOf(cause) })
    })
    if (sequence === undefined)
      return yield* new BadRequest({ message: `Rows of type ${type} are not dialogues and have no tokens to show.` })
    const ids = sequence.ids.slice(0, maxTokens)
    const own = score === undefined ? undefined : [null, ...(yield* scored(model, ids))]
    const other = score === undefined || reference === undefined ? undefined : [null, ...(yield* scored(reference, ids))]
    const values = own ?? sequence.recorded
    const value = (list: ReadonlyArray<number | null> | undefined, i: number) => {
      const found = list?.[i]
      return found === null || found === undefined ? null : wire(found)
    }
    return {
      tokens: ids.map((id, i) => ({
        text: textOf(tokenizer, id),
        trained: sequence.mask[i]!,
        logProbability: value(values, i),
        reference: value(other, i)
      })),
      note: sequence.ids.length > ids.length ? `Showing the first ${ids.length} of ${sequence.ids.length} tokens.` : ""
    } satisfies TokensView
  }).pipe(Effect.scoped)
