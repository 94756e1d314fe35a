/**
 * The safetensors format: 8 bytes of header length (little endian), a JSON header of that many bytes, then the tensors' bytes. Everything the
 * header says is checked against the file before it is used.
 */
import { type FileHandle, open } from "node:fs/promises"
import * as Effect from "effect/Effect"
import { ArtifactError } from "./artifact.ts"
import { messageOf } from "./explained-error.ts"

export interface SafetensorsEntry {
  readonly name: string
  /** "F32", "BF16", "F16", "F64", "I64", ... */
  readonly dtype: string
  readonly shape: ReadonlyArray<number>
  /** Byte offsets in the file. */
  readonly start: number
  readonly end: number
}

/** Bytes of one element by dtype. */
const widths = new Map(Object.entries({ F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1 }))

/** Headers of the largest models have a few megabytes. */
const maxHeader = 100_000_000

/** Reads and checks the header of an open file. */
export const readHeader = (handle: FileHandle, path: string): Effect.Effect<Map<string, SafetensorsEntry>, ArtifactError> =>
  Effect.gen(function* () {
    const fail = (expected: string, found: string) =>
      ArtifactError.of({
        doing: `Reading ${path}`,
        expected,
        found,
        hint: "The file is truncated or not a safetensors file: download it or save it again."
      })
    const { size, first } = yield* Effect.tryPromise({
      try: async () => {
        const first = Buffer.alloc(8)
        await handle.read(first, 0, 8, 0)
        return { size: (await handle.stat()).size, first }
      },
      catch: (cause) => fail("a file", messageOf(cause))
    })
    if (size < 8) return yield* fail("at least 8 bytes", `${size}`)
    const length = first.readBigUInt64LE(0)
    if (length > BigInt(size - 8) || length > BigInt(maxHeader))
      return yield* fail(`a header within the file of ${size} bytes`, `a header that claims ${length} bytes`)
    const dataStart = 8 + Number(length)
    const header = yield* Effect.tryPromise({
      try: async () => {
        const bytes = Buffer.alloc(Number(length))
        await handle.read(bytes, 0, bytes.length, 8)
        return JSON.parse(bytes.toString("utf8")) as Record<string, any>
      },
      catch: (cause) => fail("a JSON header", messageOf(cause))
    })
    if (typeof header !== "object" || header === null || Array.isArray(header))
      return yield* fail("a JSON object as header", "another JSON value")
    const entries = new Map<string, SafetensorsEntry>()
    for (const [name, value] of Object.entries(header)) {
      if (name === "__metadata__") continue
      const { dtype, shape, data_offsets: offsets } = (value ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown }
      const width = typeof dtype === "string" ? widths.get(dtype) : undefined
      const sane = (list: unknown): list is Array<number> => Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0)
      if (width === undefined || !sane(shape) || !sane(offsets) || offsets.length !== 2)
        return yield* fail(`a dtype, shape and offsets for tensor ${name}`, JSON.stringify(value)?.slice(0, 200) ?? "nothing")
      const [from, to] = offsets as [number, number]
      const bytes = shape.reduce((product, n) => product * n, width)
      if (to - from !== bytes)
        return yield* fail(`${bytes} bytes for tensor ${name} of ${String(dtype)} (${shape.join(", ")})`, `${to - from}`)
      if (dataStart + to > size)
        return yield* fail(
          `tensor ${name} within the file of ${size} bytes`,
          `a tensor that ends at byte ${dataStart + to}: the file is truncated`
        )
      entries.set(name, { name, dtype: dtype as string, shape, start: dataStart + from, end: dataStart + to })
    }
    // The format stores the tensors contiguously up to the end of the file.
    let end = dataStart
    for (const entry of [...entries.values()].sort((a, b) => a.start - b.start || a.end - b.end)) {
      if (entry.start !== end)
        return yield* fail(`tensor ${entry.name} at byte ${end}, directly after the previous tensor`, `byte ${entry.start}`)
      end = entry.end
    }
    if (end !== size) return yield* fail(`tensors up to the end of the file of ${size} bytes`, `tensors up to byte ${end}`)
    return entries
  })

/** Opens the file, checks its header and closes it again. */
export const checkSafetensors = (path: string): Effect.Effect<Map<string, SafetensorsEntry>, ArtifactError> =>
  Effect.gen(function* () {
    const handle = yield* Effect.tryPromise({
      try: () => open(path),
      catch: () =>
        ArtifactError.of({
          doing: "Reading a checkpoint",
          expected: `a file ${path}`,
          found: "none",
          hint: "The checkpoint is incomplete: download it or save it again."
        })
    })
    return yield* readHeader(handle, path).pipe(Effect.ensuring(Effect.promise(() => handle.close())))
  })
