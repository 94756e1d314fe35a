/**
 * An execution's curve: one row per numeric report of a stage, so that no step's loss, KL or throughput is lost. Rows are collected in columns until
 * the stage ends, successfully or not, and then written as one Parquet file into the result's sidecar (store/sidecar.ts). Checkpoints contain the
 * rows so far: a killed and resumed stage has the same steps as an uninterrupted one.
 */
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { deserialize, serialize } from "node:v8"
import * as Effect from "effect/Effect"
import type { Checkpoints } from "../define/resume-points.ts"
import type { Progress } from "../define/stage-info.ts"
import { isMissingOrUnreadable, messageOf } from "../errors.ts"
import { unreadableCheckpoint } from "../store/resume-points.ts"
import { curvesFile } from "../store/sidecar.ts"

/** In a checkpoint: the rows up to then. */
const checkpointFile = "curve.bin"
const format = 1

interface Column {
  readonly values: Float64Array
  /** 1 where the row has a value, because NaN is a value. */
  readonly present: Uint8Array
}
/** The rows as stored in a checkpoint. */
interface KeptRows {
  readonly format: number
  readonly rows: number
  readonly columns: ReadonlyArray<readonly [name: string, column: Column]>
}

const column = (capacity: number): Column => ({ values: new Float64Array(capacity), present: new Uint8Array(capacity) })
const grown = ({ values, present }: Column, capacity: number): Column => {
  const larger = column(capacity)
  larger.values.set(values)
  larger.present.set(present)
  return larger
}

/**
 * Columns: step, seconds of computation since the execution started, memory (MiB resident in the process), every number that the stage reports, and,
 * if it reports tokens, tokens per second since the previous row. All are float64; missing where the stage reported no value.
 */
export class Curve {
  readonly #columns = new Map<string, Column>()
  #capacity = 256
  #rows = 0
  /** Seconds already on the clock when this process took over. */
  #secondsBefore = 0
  readonly #began = performance.now()
  #last: number | undefined

  get rows(): number {
    return this.#rows
  }

  add({ step, ...report }: Progress): void {
    const numbers = Object.entries(report).filter(([name, value]) => name !== "total" && typeof value === "number")
    if (numbers.length === 0) return
    const seconds = this.#secondsBefore + (performance.now() - this.#began) / 1000
    const { tokens } = report
    const perSecond = tokens === undefined || this.#last === undefined ? undefined : tokens / (seconds - this.#last)
    this.#last = seconds
    const memory = process.memoryUsage.rss() / 2 ** 20
    this.#push(
      Object.entries({ step, seconds, memory, ...(Object.fromEntries(numbers) as Record<string, number>), tokensPerSecond: perSecond })
    )
  }

  #push(row: ReadonlyArray<readonly [name: string, value: number | undefined]>): void {
    if (this.#rows === this.#capacity) {
      this.#capacity *= 2
      for (const [name, old] of this.#columns) this.#columns.set(name, grown(old, this.#capacity))
    }
    for (const [name, value] of row) {
      if (value === undefined) continue
      let into = this.#columns.get(name)
      if (into === undefined) this.#columns.set(name, (into = column(this.#capacity)))
      into.values[this.#rows] = value
      into.present[this.#rows] = 1
    }
    this.#rows++
  }

  /** The rows so far, for a checkpoint. */
  encode(): Uint8Array {
    const columns = [...this.#columns].map(
      ([name, { values, present }]) => [name, { values: values.slice(0, this.#rows), present: present.slice(0, this.#rows) }] as const
    )
    return serialize({ format, rows: this.#rows, columns } satisfies KeptRows)
  }

  /** Restores the rows encoded in these bytes. The clock continues from the last row. */
  restore(bytes: Uint8Array): void {
    const kept = deserialize(bytes) as KeptRows
    if (kept.format !== format) return
    this.#rows = kept.rows
    this.#capacity = Math.max(this.#capacity, kept.rows)
    this.#columns.clear()
    for (const [name, old] of kept.columns) this.#columns.set(name, grown(old, this.#capacity))
    this.#secondsBefore = this.#columns.get("seconds")?.values[kept.rows - 1] ?? 0
  }

  /** Restores the rows from a checkpoint; checkpoints of older versions have none. */
  async resume(checkpoint: string): Promise<void> {
    const bytes = await readFile(join(checkpoint, checkpointFile)).catch((cause: unknown) => {
      if (isMissingOrUnreadable(cause)) return undefined
      throw cause
    })
    if (bytes !== undefined) this.restore(bytes)
  }

  /** The bytes of a Parquet file. The libraries are loaded here, because most processes write none. */
  async parquet(): Promise<Uint8Array> {
    const [arrow, parquet] = await Promise.all([import("apache-arrow"), import("parquet-wasm/node")])
    const vectors = [...this.#columns].map(([name, { values, present }]) => {
      const nullBitmap = new Uint8Array((this.#rows + 7) >> 3)
      for (let i = 0; i < this.#rows; i++) nullBitmap[i >> 3]! |= present[i]! << (i & 7)
      const data = values.subarray(0, this.#rows)
      return [name, new arrow.Vector([arrow.makeData({ type: new arrow.Float64(), length: this.#rows, nullBitmap, data })])] as const
    })
    const table = parquet.Table.fromIPCStream(arrow.tableToIPC(new arrow.Table(Object.fromEntries(vectors)), "stream"))
    const properties = new parquet.WriterPropertiesBuilder().setCompression(parquet.Compression.ZSTD).build()
    // The writer takes ownership of both and frees them.
    return parquet.writeParquet(table, properties)
  }
}

/** The curve of a stage whose process was killed: the rows in its newest checkpoint. */
export const curveOfCheckpoints = async (folder: string): Promise<Curve> => {
  const names = await readdir(folder).catch(() => [] as Array<string>)
  const newest = names
    .filter((name) => /^\d+$/.test(name))
    .sort()
    .at(-1)
  // A damaged checkpoint is handled by the stage when it resumes.
  const curve = new Curve()
  if (newest !== undefined) await curve.resume(join(folder, newest)).catch(() => undefined)
  return curve
}

/** Checkpoints that contain the curve. */
export const withCurve = (checkpoints: Checkpoints, curve: Curve): Checkpoints => ({
  due: checkpoints.due,
  // A stage may ask again later, to name its last checkpoint.
  latest: Effect.tap(checkpoints.latest, (found) =>
    found === undefined || curve.rows > 0
      ? Effect.void
      : Effect.tryPromise({ try: () => curve.resume(found.path), catch: unreadableCheckpoint })
  ),
  save: (step, write) =>
    checkpoints.save(step, (folder, hold) =>
      Effect.andThen(
        write(folder, hold),
        Effect.tryPromise({
          try: () => writeFile(join(folder, checkpointFile), curve.encode()),
          catch: (cause) => ({ message: messageOf(cause) })
        })
      )
    )
})

/** Writes the curve, if there is one, into a folder that need not exist. Errors become notes and do not fail the stage: its result matters more. */
export const writeCurve = (curve: Curve, folder: string, note: (message: string) => void): Effect.Effect<void> =>
  curve.rows === 0
    ? Effect.void
    : Effect.promise(async () => {
        try {
          const bytes = await curve.parquet()
          await mkdir(folder, { recursive: true })
          await writeFile(join(folder, curvesFile), bytes)
        } catch (cause) {
          note(`its curve could not be written: ${messageOf(cause)}`)
        }
      })
