/**
 * Stores the token sequences of a whole dataset contiguously: in typed arrays, with 16 bits per token if the vocabulary allows, and beyond a size limit in
 * a file. Each sequence has some integers stored with it: the ends of its parts, its rating.
 */
import { closeSync, openSync, readSync, unlinkSync, writeSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { messageOf } from "../../schemas/explained-error.ts"

export interface TokenStoreOptions {
  readonly vocabSize: number
  /** The folder of the file, which is unlinked right after it is opened, so that the system frees it however the process ends. */
  readonly folder: string
  /** Maximum bytes of tokens kept in memory; further tokens go to the file. */
  readonly memory?: number
  /** Bytes allocated, and written, in one piece. */
  readonly chunk?: number
}

/** A growing array of numbers. */
class Column {
  #values: Uint32Array | Float64Array
  length = 0
  constructor(values: Uint32Array | Float64Array) {
    this.#values = values
  }
  push(value: number): void {
    if (this.length === this.#values.length) {
      const grown = new (this.#values.constructor as Uint32ArrayConstructor | Float64ArrayConstructor)(2 * this.length)
      grown.set(this.#values)
      this.#values = grown
    }
    this.#values[this.length++] = value
  }
  at(index: number): number {
    return this.#values[index]!
  }
}

export class TokenStore {
  readonly #folder: string
  readonly #bytesPerToken: number
  /** Tokens per chunk. */
  readonly #chunkLength: number
  /** The chunks in memory, up to the limit. */
  readonly #chunks: Array<Uint16Array | Uint32Array> = []
  readonly #maxChunks: number
  /** The chunk being filled: the last of `#chunks`, or one that is written to the file when full. */
  #open: Uint16Array | Uint32Array
  #file: number | undefined
  /** Total number of tokens. */
  #tokens = 0
  /** The start offset of each sequence's tokens and numbers, and the end of the last. */
  readonly #starts = new Column(new Float64Array(1024))
  readonly #firstNumbers = new Column(new Float64Array(1024))
  readonly #numbers = new Column(new Uint32Array(1024))

  constructor({ vocabSize, folder, memory = 256 << 20, chunk = 8 << 20 }: TokenStoreOptions) {
    this.#folder = folder
    this.#bytesPerToken = vocabSize <= 2 ** 16 ? 2 : 4
    this.#chunkLength = Math.floor(chunk / this.#bytesPerToken)
    this.#maxChunks = Math.max(1, Math.floor(memory / chunk))
    this.#open = this.#newChunk(0)
    this.#starts.push(0)
    this.#firstNumbers.push(0)
  }

  /** A store that is closed with its scope. */
  static readonly scoped = (options: TokenStoreOptions): Effect.Effect<TokenStore, never, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.sync(() => new TokenStore(options)),
      (store) => Effect.sync(() => store.close())
    )

  /** Number of sequences. */
  get length(): number {
    return this.#starts.length - 1
  }

  /** Number of tokens in a sequence. */
  sizeOf(index: number): number {
    return this.#starts.at(index + 1) - this.#starts.at(index)
  }

  /** Adds a sequence: a buffer's tokens, and integers below 2^32. Throws ArtifactError if the file cannot be written. */
  add(tokens: TokenBuffer, numbers: ReadonlyArray<number>): void {
    for (let from = 0; from < tokens.length;) {
      const at = this.#tokens % this.#chunkLength
      if (at === 0 && this.#tokens > 0) this.#nextChunk()
      const count = Math.min(tokens.length - from, this.#chunkLength - at)
      this.#open.set(tokens.ids.subarray(from, from + count), at)
      from += count
      this.#tokens += count
    }
    for (const number of numbers) this.#numbers.push(number)
    this.#starts.push(this.#tokens)
    this.#firstNumbers.push(this.#numbers.length)
  }

  /** The tokens of a sequence, or a range of them. Throws ArtifactError if the file cannot be read. */
  tokens(index: number, from = 0, to: number = this.sizeOf(index)): Array<number> {
    const start = this.#starts.at(index) + from
    const out = new Array<number>(to - from)
    for (let done = 0; done < out.length;) {
      const chunk = Math.floor((start + done) / this.#chunkLength)
      const at = start + done - chunk * this.#chunkLength
      const count = Math.min(out.length - done, this.#chunkLength - at)
      const part = this.#part(chunk, at, count)
      for (let i = 0; i < count; i++) out[done + i] = part[i]!
      done += count
    }
    return out
  }

  /** The integers stored with a sequence. */
  numbers(index: number): Array<number> {
    const [from, to] = [this.#firstNumbers.at(index), this.#firstNumbers.at(index + 1)]
    return Array.from({ length: to - from }, (_, i) => this.#numbers.at(from + i))
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
    this.#file = undefined
  }

  #newChunk(index: number): Uint16Array | Uint32Array {
    const chunk = this.#bytesPerToken === 2 ? new Uint16Array(this.#chunkLength) : new Uint32Array(this.#chunkLength)
    if (index < this.#maxChunks) this.#chunks.push(chunk)
    return chunk
  }

  /** Handles a full chunk: it stays in memory, or is written to the file and reused. */
  #nextChunk(): void {
    const index = this.#tokens / this.#chunkLength
    if (index <= this.#maxChunks) {
      this.#open = this.#newChunk(index)
      return
    }
    const bytes = new Uint8Array(this.#open.buffer)
    const position = (index - 1 - this.#maxChunks) * bytes.length
    this.#attempt("enough free space", (file) => {
      for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done, bytes.length - done, position + done)
    })
  }

  #part(chunk: number, at: number, count: number): Uint16Array | Uint32Array {
    const whole = chunk < this.#maxChunks ? this.#chunks[chunk]! : this.#isOpen(chunk) ? this.#open : undefined
    if (whole !== undefined) return whole.subarray(at, at + count)
    const part = this.#bytesPerToken === 2 ? new Uint16Array(count) : new Uint32Array(count)
    const bytes = new Uint8Array(part.buffer)
    const position = ((chunk - this.#maxChunks) * this.#chunkLength + at) * this.#bytesPerToken
    this.#attempt("the bytes written before", (file) => {
      for (let done = 0; done < bytes.length;) {
        const count = readSync(file, bytes, done, bytes.length - done, position + done)
        if (count === 0) throw new Error(`it ends at byte ${position + done}`)
        done += count
      }
    })
    return part
  }

  #isOpen(chunk: number): boolean {
    return chunk === Math.floor((this.#tokens - 1) / this.#chunkLength)
  }

  #attempt(expected: string, use: (file: number) => void): void {
    const path = join(this.#folder, ".tokens")
    try {
      if (this.#file === undefined) {
        this.#file = openSync(path, "wx+")
        unlinkSync(path)
      }
      use(this.#file)
    } catch (cause) {
      throw ArtifactError.of({
        doing: `Storing tokens in the file ${path}`,
        expected,
        found: messageOf(cause),
        hint: "Free some space on that disk, and run again."
      })
    }
  }
}
