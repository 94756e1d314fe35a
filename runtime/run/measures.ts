/** A run's measures: the metrics of its nodes and the numbers in its reports, by name. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { storeError, type StoreError } from "../errors.ts"
import type { RunResult } from "./events.ts"
import { Store } from "../store/store.ts"

/** "node.metric" or "node.path.to.report.field" -> value, in graph order. A pipeline's outputs are also listed under their own names. */
export type Measures = Readonly<Record<string, number | string | boolean>>

/** One entry per number, word or boolean in a report; lists and multi-line strings are not measures. */
const leaves = (value: unknown, path: string, into: Map<string, number | string | boolean>): void => {
  if (typeof value === "number" || typeof value === "boolean") into.set(path, value)
  else if (typeof value === "string" && value.length <= 60 && !value.includes("\n")) into.set(path, value)
  else if (typeof value === "object" && value !== null && !Array.isArray(value))
    for (const [name, field] of Object.entries(value)) leaves(field, `${path}.${name}`, into)
}

const read = async (file: string): Promise<unknown> => {
  const text = await readFile(file, "utf8").catch((cause: NodeJS.ErrnoException) => {
    // Only reports have one.
    if (cause.code === "ENOENT") return undefined
    throw cause
  })
  return text === undefined ? undefined : (JSON.parse(text) as unknown)
}

export const measuresOf = (result: RunResult): Effect.Effect<Measures, StoreError, Store> =>
  Effect.gen(function* () {
    const store = yield* Store
    const reportOf = (folder: string) =>
      Effect.tryPromise({
        try: () => read(join(folder, "report.json")),
        catch: storeError((reason) => `Reading the report in ${folder}: ${reason}. The run's results are kept: fix this, then run again.`)
      })
    const measures = new Map<string, number | string | boolean>()
    for (const { id, digest, metrics } of result.nodes) {
      if (digest === null) continue
      for (const [name, value] of Object.entries(metrics)) measures.set(`${id}.${name}`, value)
      leaves(yield* reportOf(store.path(digest)), id, measures)
    }
    for (const [name, { path }] of Object.entries(result.outputs)) leaves(yield* reportOf(path), name, measures)
    return Object.fromEntries(measures)
  })
