/** Reads tensors from safetensors files and writes them. The format and its checks: schemas/safetensors.ts. */
import { open } from "node:fs/promises"
import { relative } from "node:path"
import * as Effect from "effect/Effect"
import { type Device, type DType, elementSize, empty, type Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { messageOf } from "../schemas/explained-error.ts"
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
/** The format's name of each dtype. */
export const safetensorsNames = Object.fromEntries(Object.entries(dtypes).map(([name, dtype]) => [dtype, name])) as Record<DType, string>

export interface SafetensorsFile {
  readonly entries: ReadonlyMap<string, SafetensorsEntry>
  /** Reads one tensor without touching the rest of the file. The caller owns it. */
  readonly read: (name: string, options?: { readonly dtype?: DType; readonly device?: Device }) => Effect.Effect<Tensor, ArtifactError>
  /** Reads one tensor into an existing contiguous tensor of the same shape, converting to its dtype. */
  readonly readInto: (name: string, tensor: Tensor) => Effect.Effect<void, ArtifactError>
  readonly close: () => Promise<void>
}

/**
 * Opens a file and checks its header. Tensors are read from the file whose header was checked, even if its name now refers to another file, and directly into their
 * destination: on a GPU in the file's dtype, then converted there.
 */
export const openSafetensors = (path: string): Effect.Effect<SafetensorsFile, ArtifactError> =>
  Effect.gen(function* () {
    const fail = (expected: string, found: string) =>
      ArtifactError.of({ doing: `Reading ${path}`, expected, found, hint: "Download the file or save it again." })
    const handle = yield* Effect.tryPromise({
      try: () => open(path),
      catch: (cause) => fail("a safetensors file", (cause as NodeJS.ErrnoException).code === "ENOENT" ? "none" : messageOf(cause))
    })
    const entries = yield* readHeader(handle, path).pipe(Effect.onError(() => Effect.promise(() => handle.close())))
    const known = Effect.fnUntraced(function* (name: string) {
      const entry = entries.get(name)
      if (entry === undefined) return yield* fail(`a tensor ${name}`, "none")
      const dtype = dtypes[entry.dtype]
      if (dtype === undefined) return yield* fail(`tensor ${name} of a known dtype`, entry.dtype)
      return { ...entry, dtype }
    })
    const readInto: SafetensorsFile["readInto"] = Effect.fnUntraced(function* (name, tensor) {
      const { dtype, start, end } = yield* known(name)
      const length = end - start
      const count = yield* Effect.try({
        try: () => tensor.readFrom_(handle.fd, start, dtype),
        catch: (cause) => fail(`${length} bytes of tensor ${name}`, messageOf(cause))
      })
      if (count !== length) return yield* fail(`${length} bytes of tensor ${name}`, `${count}: the file was truncated after it was opened`)
      yield* nextTurn
    })
    const read: SafetensorsFile["read"] = Effect.fnUntraced(function* (name, options = {}) {
      const { dtype, shape } = yield* known(name)
      const tensor = empty(shape, { dtype: options.dtype ?? dtype, device: options.device ?? "cpu" })
      yield* Effect.onError(readInto(name, tensor), () => Effect.sync(() => tensor.free()))
      return tensor
    })
    return { entries, read, readInto, close: () => handle.close() }
  })

/** Yields to the event loop between two tensors, since reading one does not. */
const nextTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

/** The header for these tensors, the tensors in file order, and the file's size. Sorted by name, so that equal tensors give equal bytes. */
const layoutOf = (tensors: Readonly<Record<string, Tensor>>) => {
  const sorted = Object.entries(tensors).sort(([a], [b]) => (a < b ? -1 : 1))
  let offset = 0
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } }
  for (const [name, tensor] of sorted) {
    const end = offset + bytesOf(tensor)
    header[name] = { dtype: safetensorsNames[tensor.dtype], shape: tensor.shape, data_offsets: [offset, end] }
    offset = end
  }
  const json = JSON.stringify(header)
  // Padded with spaces so that the data start at a multiple of 8.
  const text = Buffer.from(json + " ".repeat((8 - (Buffer.byteLength(json) % 8)) % 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  const head = Buffer.concat([length, text])
  return { head, sorted: sorted.map(([, tensor]) => tensor), size: head.length + offset }
}
const bytesOf = (tensor: Tensor): number => tensor.elements * elementSize[tensor.dtype]

/** Writes tensors to a file at that path, or takes a snapshot so that the file will contain their current values. */
export type TensorWriter = (path: string, tensors: Readonly<Record<string, Tensor>>) => Promise<void>

/** Number of bytes copied from a tensor and written in one piece. */
const pieceSize = 4 << 20

/** Writes tensors sorted by name: equal tensors give equal bytes. */
export const writeSafetensors: TensorWriter = async (path, tensors) => {
  const { head, sorted } = layoutOf(tensors)
  const piece = new Uint8Array(Math.min(pieceSize, Math.max(0, ...sorted.map(bytesOf))))
  const file = await open(path, "w")
  const write = async (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at)).bytesWritten
  }
  try {
    await write(head)
    for (const tensor of sorted) {
      const size = bytesOf(tensor)
      for (let at = 0; at < size; at += piece.length) {
        const view = piece.subarray(0, Math.min(piece.length, size - at))
        tensor.copyBytes(view, at / elementSize[tensor.dtype])
        await write(view)
      }
    }
  } finally {
    await file.close()
  }
}

/** Future files in memory shared between threads. The memory is kept and reused for the next files of the same names and sizes. */
export class TensorSnapshot {
  readonly #kept = new Map<string, Uint8Array<SharedArrayBuffer>>()

  /** Copies the current values of tensors; `hold` receives each file's bytes. They are valid until the next snapshot of a file with the same name relative to the folder. */
  writer(folder: string, hold: (file: { readonly path: string; readonly bytes: Uint8Array<SharedArrayBuffer> }) => void): TensorWriter {
    return (path, tensors) => {
      const { head, sorted, size } = layoutOf(tensors)
      const name = relative(folder, path)
      const before = this.#kept.get(name)
      const bytes = before?.length === size ? before : new Uint8Array(new SharedArrayBuffer(size))
      this.#kept.set(name, bytes)
      bytes.set(head)
      let at = head.length
      for (const tensor of sorted) {
        const end = at + bytesOf(tensor)
        tensor.copyBytes(bytes.subarray(at, end), 0)
        at = end
      }
      hold({ path, bytes })
      return Promise.resolve()
    }
  }
}
