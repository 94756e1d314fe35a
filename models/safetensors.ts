/** Tensors from and to safetensors files. The format and its checks: schemas/safetensors.ts. */
import { open } from "node:fs/promises"
import * as Effect from "effect/Effect"
import { type Device, type DType, elementSize, fromBytes, scoped, type Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { readHeader, type SafetensorsEntry } from "../schemas/safetensors.ts"

const dtypes: Readonly<Record<string, DType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  U8: "uint8",
  BOOL: "bool"
}
/** How the format calls each dtype. */
export const safetensorsNames = Object.fromEntries(Object.entries(dtypes).map(([name, dtype]) => [dtype, name])) as Record<DType, string>

export interface SafetensorsFile {
  readonly entries: ReadonlyMap<string, SafetensorsEntry>
  /** Reads one tensor; nothing else of the file is touched. The caller owns it. */
  readonly read: (name: string, options?: { readonly dtype?: DType; readonly device?: Device }) => Effect.Effect<Tensor, ArtifactError>
  readonly close: () => Promise<void>
}

export const openSafetensors = (path: string): Effect.Effect<SafetensorsFile, ArtifactError> =>
  Effect.gen(function* () {
    const fail = (expected: string, found: string) =>
      ArtifactError.of({ doing: `Reading ${path}`, expected, found, hint: "Download or save the file again." })
    const handle = yield* Effect.tryPromise({ try: () => open(path), catch: () => fail("a safetensors file", "none") })
    const entries = yield* readHeader(handle, path).pipe(Effect.onError(() => Effect.promise(() => handle.close())))
    const read: SafetensorsFile["read"] = (name, options = {}) =>
      Effect.gen(function* () {
        const entry = entries.get(name)
        if (entry === undefined) return yield* fail(`a tensor ${name}`, "none")
        const dtype = dtypes[entry.dtype]
        if (dtype === undefined) return yield* fail(`tensor ${name} of a known dtype`, entry.dtype)
        const bytes = Buffer.alloc(entry.end - entry.start)
        const count = yield* Effect.promise(async () => {
          let at = 0
          while (at < bytes.length) {
            // One read call takes at most 2 GiB.
            const { bytesRead } = await handle.read(bytes, at, Math.min(bytes.length - at, 1 << 30), entry.start + at)
            if (bytesRead === 0) break
            at += bytesRead
          }
          return at
        })
        if (count !== bytes.length) return yield* fail(`${bytes.length} bytes of tensor ${name}`, `${count}`)
        return scoped(() =>
          fromBytes(bytes, { shape: entry.shape, dtype, device: options.device ?? "cpu" }).to({ dtype: options.dtype ?? dtype })
        )
      })
    return { entries, read, close: () => handle.close() }
  })

/** Writes tensors in the order of their names: the same tensors give the same bytes. */
export const writeSafetensors = async (path: string, tensors: Readonly<Record<string, Tensor>>): Promise<void> => {
  const sorted = Object.entries(tensors).sort(([a], [b]) => (a < b ? -1 : 1))
  let offset = 0
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } }
  for (const [name, tensor] of sorted) {
    const size = tensor.elements * elementSize[tensor.dtype]
    header[name] = { dtype: safetensorsNames[tensor.dtype], shape: tensor.shape, data_offsets: [offset, offset + size] }
    offset += size
  }
  const json = JSON.stringify(header)
  // Padded with spaces so that the data begin at a multiple of 8.
  const text = Buffer.from(json + " ".repeat((8 - (Buffer.byteLength(json) % 8)) % 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  const file = await open(path, "w")
  try {
    await file.writev([length, text])
    for (const [, tensor] of sorted) {
      const bytes = tensor.toBytes()
      for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at, Math.min(bytes.length - at, 1 << 30))).bytesWritten
    }
  } finally {
    await file.close()
  }
}
