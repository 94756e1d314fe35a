/** Compares two artifacts of one type: the first tensor and element, row and field, or report field that differs, and the number of differences. */
import { open, readdir, readFile } from "node:fs/promises"
import { join, relative } from "node:path"
import * as Effect from "effect/Effect"
import { own } from "./own.ts"
import type { ArtifactError, ArtifactType, DatasetType } from "./artifact.ts"
import { readHeader, type SafetensorsEntry } from "./safetensors.ts"

/** Longer texts are cut to this many characters when shown. */
const shown = 60

const show = (value: unknown): string => {
  if (value === undefined) return "nothing"
  // JSON has no NaN, infinity or -0.
  const text = Object.is(value, -0) ? "-0" : typeof value === "bigint" || typeof value === "number" ? String(value) : JSON.stringify(value)
  return text.length > shown ? `${text.slice(0, shown)}...` : text
}

/** The first difference between two values, as "path: before -> after"; undefined when they are equal. */
export const firstDifference = (before: unknown, after: unknown, path = ""): string | undefined => {
  if (Object.is(before, after)) return undefined
  const isObject = (value: unknown): value is object => typeof value === "object" && value !== null
  if (isObject(before) && isObject(after) && Array.isArray(before) === Array.isArray(after)) {
    const fields = [...new Set([...Object.keys(before), ...Object.keys(after)])]
    for (const field of fields) {
      const inner = Array.isArray(before) ? `${path}[${field}]` : path === "" ? field : `${path}.${field}`
      const found = firstDifference(own(before as Record<string, unknown>, field), own(after as Record<string, unknown>, field), inner)
      if (found !== undefined) return found
    }
    return undefined
  }
  const at = path === "" ? "" : `${path}: `
  if (typeof before === "string" && typeof after === "string" && Math.max(before.length, after.length) > shown) {
    let same = 0
    while (same < before.length && before[same] === after[same]) same++
    const from = Math.max(0, same - 10)
    return `${at}from character ${same + 1}: ${show(before.slice(from))} -> ${show(after.slice(from))}`
  }
  return `${at}${show(before)} -> ${show(after)}`
}

/** All differences between two values, one per leaf of their objects and lists. */
export const allDifferences = (before: unknown, after: unknown, path = ""): Array<string> => {
  const isObject = (value: unknown): value is object => typeof value === "object" && value !== null
  if (!isObject(before) || !isObject(after) || Array.isArray(before) !== Array.isArray(after))
    return [firstDifference(before, after, path) ?? []].flat()
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((field) =>
    allDifferences(
      own(before as Record<string, unknown>, field),
      own(after as Record<string, unknown>, field),
      Array.isArray(before) ? `${path}[${field}]` : path === "" ? field : `${path}.${field}`
    )
  )
}

// ---- datasets --------------------------------------------------------------------------------------------------------------------------

const rowsDiffer = (before: string, after: string, type: DatasetType<any>): Effect.Effect<string | undefined, ArtifactError> =>
  Effect.gen(function* () {
    const { openRows } = yield* Effect.promise(() => import("./dataset-file.ts"))
    const left = yield* openRows(before, type)
    const right = yield* openRows(after, type).pipe(Effect.onError(() => Effect.promise(() => left.close())))
    return yield* Effect.tryPromise({
      try: async () => {
        /** The rows in order, regardless of batches. */
        const rows = async function* (file: typeof left) {
          for (let i = 0; i < file.batches; i++) yield* await file.batch(i)
        }
        const others = rows(right)
        let first: string | undefined
        let [at, differing] = [0, 0]
        for await (const row of rows(left)) {
          at++
          const next = await others.next()
          if (next.done === true) break
          const found = firstDifference(row, next.value)
          if (found === undefined) continue
          differing++
          first ??= `row ${at}, ${found}`
        }
        const counts = left.rowCount === right.rowCount ? "" : `${left.rowCount} -> ${right.rowCount} rows; `
        if (first !== undefined) return `${counts}${first} (${differing} of ${Math.min(left.rowCount, right.rowCount)} rows differ)`
        return counts === "" ? undefined : `${counts}the first ${Math.min(left.rowCount, right.rowCount)} rows are equal`
      },
      catch: (cause) => cause as ArtifactError
    }).pipe(Effect.ensuring(Effect.promise(() => Promise.all([left.close(), right.close()]))))
  })

// ---- tensors ---------------------------------------------------------------------------------------------------------------------------

/** One element of a tensor's bytes. */
const elementOf = (dtype: string, bytes: Buffer, at: number): number | bigint => {
  switch (dtype) {
    case "F64":
      return bytes.readDoubleLE(at)
    case "F32":
      return bytes.readFloatLE(at)
    case "BF16": {
      // The upper half of a float32.
      const wide = Buffer.alloc(4)
      bytes.copy(wide, 2, at, at + 2)
      return wide.readFloatLE(0)
    }
    case "F16": {
      const bits = bytes.readUInt16LE(at)
      const [sign, exponent, fraction] = [bits >> 15 === 1 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
      if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN
      return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
    }
    case "I64":
      return bytes.readBigInt64LE(at)
    case "I32":
      return bytes.readInt32LE(at)
    case "I16":
      return bytes.readInt16LE(at)
    case "I8":
      return bytes.readInt8(at)
    default:
      return bytes.readUInt8(at)
  }
}
const widthOf = ({ shape, start, end }: SafetensorsEntry): number =>
  (end - start) /
  Math.max(
    1,
    shape.reduce((product, n) => product * n, 1)
  )

const chunkBytes = 4 << 20

const tensorsDiffer = (before: string, after: string): Effect.Effect<string | undefined, ArtifactError> =>
  Effect.gen(function* () {
    const [left, right] = yield* Effect.promise(() => Promise.all([open(before), open(after)]))
    return yield* Effect.gen(function* () {
      const [old, young] = [yield* readHeader(left, before), yield* readHeader(right, after)]
      const names = [...new Set([...old.keys(), ...young.keys()])]
      let first: string | undefined
      let differing = 0
      for (const name of names) {
        const [a, b] = [old.get(name), young.get(name)]
        let found: string | undefined
        if (a === undefined || b === undefined) found = a === undefined ? "is new" : "is missing"
        else if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join())
          found = `${a.dtype} [${a.shape.join(", ")}] -> ${b.dtype} [${b.shape.join(", ")}]`
        else found = yield* Effect.promise(() => elementsDiffer(left, right, a, b))
        if (found === undefined) continue
        differing++
        first ??= `tensor ${name}: ${found}`
      }
      return first === undefined ? undefined : `${first} (${differing} of ${names.length} tensors differ)`
    }).pipe(Effect.ensuring(Effect.promise(() => Promise.all([left.close(), right.close()]))))
  })

type Handle = Awaited<ReturnType<typeof open>>

const elementsDiffer = async (left: Handle, right: Handle, a: SafetensorsEntry, b: SafetensorsEntry): Promise<string | undefined> => {
  const width = widthOf(a)
  const [one, other] = [Buffer.alloc(chunkBytes), Buffer.alloc(chunkBytes)]
  let first: string | undefined
  let [differing, largest] = [0, 0]
  for (let done = 0; done < a.end - a.start; done += chunkBytes) {
    const length = Math.min(chunkBytes, a.end - a.start - done)
    await left.read(one, 0, length, a.start + done)
    await right.read(other, 0, length, b.start + done)
    if (one.compare(other, 0, length, 0, length) === 0) continue
    for (let i = 0; i < length; i += width) {
      if (one.compare(other, i, i + width, i, i + width) === 0) continue
      const [x, y] = [elementOf(a.dtype, one, i), elementOf(a.dtype, other, i)]
      differing++
      largest = Math.max(largest, Math.abs(Number(x) - Number(y)))
      first ??= `element [${indexOf((done + i) / width, a.shape).join(", ")}]: ${x} -> ${y}`
    }
  }
  if (first === undefined) return undefined
  return `${first}; ${differing} of ${(a.end - a.start) / width} elements differ, by at most ${largest.toPrecision(3)}`
}

/** Converts a flat index to one index per dimension. */
const indexOf = (flat: number, shape: ReadonlyArray<number>): Array<number> => {
  const out: Array<number> = []
  for (let i = shape.length - 1; i >= 0; i--) {
    out.unshift(flat % shape[i]!)
    flat = Math.floor(flat / shape[i]!)
  }
  return out
}

// ---- artifacts -------------------------------------------------------------------------------------------------------------------------

const filesOf = async (directory: string): Promise<Array<string>> =>
  (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile() && entry.name !== "artifact.json")
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort()

const bytesDiffer = async (before: string, after: string): Promise<string | undefined> => {
  const [left, right] = await Promise.all([open(before), open(after)])
  try {
    const [{ size: a }, { size: b }] = [await left.stat(), await right.stat()]
    const sizes = a === b ? "" : ` (${a} -> ${b} bytes)`
    const [one, other] = [Buffer.alloc(chunkBytes), Buffer.alloc(chunkBytes)]
    for (let done = 0; done < Math.min(a, b); done += chunkBytes) {
      const length = Math.min(chunkBytes, a - done, b - done)
      await left.read(one, 0, length, done)
      await right.read(other, 0, length, done)
      if (one.compare(other, 0, length, 0, length) !== 0) {
        let i = 0
        while (one[i] === other[i]) i++
        return `byte ${done + i}${sizes}`
      }
    }
    return a === b ? undefined : `byte ${Math.min(a, b)}${sizes}`
  } finally {
    await Promise.all([left.close(), right.close()])
  }
}

/** One line per file that differs between two artifacts of one type; empty when their bytes are equal. */
export const artifactDifferences = (before: string, after: string, type: ArtifactType<any>): Effect.Effect<Array<string>, ArtifactError> =>
  Effect.gen(function* () {
    const [old, young] = yield* Effect.promise(() => Promise.all([filesOf(before), filesOf(after)]))
    const lines: Array<string> = []
    for (const name of [...new Set([...old, ...young])].sort()) {
      if (!old.includes(name) || !young.includes(name)) {
        lines.push(`${name} ${old.includes(name) ? "is missing" : "is new"}`)
        continue
      }
      const [a, b] = [join(before, name), join(after, name)]
      const bytes = yield* Effect.promise(() => bytesDiffer(a, b))
      if (bytes === undefined) continue
      const sameContent = `equal content in different bytes, from ${bytes}`
      let what: string
      if (name.endsWith(".safetensors")) what = (yield* tensorsDiffer(a, b)) ?? sameContent
      else if (type.kind === "dataset" && name === "data.arrow")
        what = (yield* rowsDiffer(before, after, type as DatasetType<any>)) ?? sameContent
      else if (name.endsWith(".json")) what = (yield* Effect.promise(() => jsonDiffers(a, b))) ?? sameContent
      else what = `differs from ${bytes}`
      lines.push(`${name}: ${what}`)
    }
    return lines
  })

const jsonDiffers = async (before: string, after: string): Promise<string | undefined> => {
  const [a, b] = await Promise.all([readFile(before, "utf8"), readFile(after, "utf8")])
  const all = allDifferences(JSON.parse(a), JSON.parse(b))
  return all.length === 0 ? undefined : `${all[0]}${all.length === 1 ? "" : ` (${all.length} fields differ)`}`
}
