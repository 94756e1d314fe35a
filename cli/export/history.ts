/** How a result was made, stage by stage, from the journal: for its card. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { StoreError } from "../../runtime/errors.ts"
import { describeDamage, findDamage } from "../../runtime/inspect/damage.ts"
import { descent, type Making, makings, type Named } from "../../runtime/inspect/lineage.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import { Store } from "../../runtime/store/store.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { energyKwh, carbonKg } from "../../models/cost.ts"
import { presentGpu } from "../cost.ts"

/** An executed stage and its result. */
export interface Step {
  readonly result: Named
  readonly making: Making
  readonly metrics: Readonly<Record<string, number>>
}
export interface History {
  /** In dependency order; the last step made the exported result. */
  readonly steps: ReadonlyArray<Step>
  /** The user's files and folders at the start of the lineage. */
  readonly sources: ReadonlyArray<Named>
  /** Results in the lineage without a record. */
  readonly unknown: ReadonlyArray<Named>
  /** Reports made from the result itself, with their numbers; null if the report is no longer in the store. */
  readonly reports: ReadonlyArray<{ readonly name: string; readonly numbers: Readonly<Record<string, number>> | null }>
  /** The run that made it: its seed and Node version. */
  readonly run: { readonly id: string; readonly pipeline: string; readonly seed: number | null; readonly node: string | null } | null
}

const readReport = Effect.fnUntraced(function* (path: string, digest: string) {
  const damage = yield* findDamage(digest)
  return {
    damage,
    content: damage === undefined ? (JSON.parse(yield* Effect.promise(() => readFile(path, "utf8"))) as unknown) : undefined
  }
})

/** The numbers in a report by path, "harmlessness.rate"; numbers in lists, which may be long, are omitted. */
export const numbersIn = (value: unknown, place = ""): Readonly<Record<string, number>> =>
  typeof value === "number"
    ? { [place]: value }
    : typeof value !== "object" || value === null || Array.isArray(value)
      ? {}
      : Object.fromEntries(
          Object.entries(value).flatMap(([name, inner]) => Object.entries(numbersIn(inner, place === "" ? name : `${place}.${name}`)))
        )

/** The history of a result; undefined if the journal has no record of it. `node`: the node by which it was named. */
export const historyOf = (digest: string, node?: string): Effect.Effect<History | undefined, StoreError, Journal | Store> =>
  Effect.gen(function* () {
    const [journal, store] = [yield* Journal, yield* Store]
    const [steps, sources, unknown] = [[] as Array<Step>, [] as Array<Named>, [] as Array<Named>]
    const seen = new Set<string>()
    const known = yield* journal.artifact(digest)
    if (known === undefined) return undefined
    const start: Named = { kind: "artifact", digest, contentDigest: known.contentDigest, type: known.type, name: node ?? "" }
    const visit = (result: Named): Effect.Effect<void, StoreError, Journal> =>
      Effect.gen(function* () {
        const id = result.digest ?? result.contentDigest
        if (seen.has(id)) return
        seen.add(id)
        if (result.digest === null) return void sources.push(result)
        const [making] = yield* makings(result.digest)
        if (making === undefined) return void unknown.push(result)
        for (const { input } of making.inputs) yield* visit(input)
        steps.push({ result, making, metrics: (yield* journal.artifact(result.digest))?.metrics ?? {} })
      })
    yield* visit(start)
    const reports = (yield* descent(start, 1)).filter(({ type }) => type.startsWith("report:"))
    const last = steps.at(-1)?.making
    const run = last === undefined ? undefined : (yield* journal.runsLike(last.run))[0]
    const asked = run === undefined ? undefined : askedOf(run)
    return {
      ...{ steps, sources, unknown },
      reports: yield* Effect.forEach(reports, ({ digest: of, name }) =>
        Effect.gen(function* () {
          if (!(yield* store.present(of!))) return { name, numbers: null }
          const { content, damage } = yield* readReport(join(store.path(of!), "report.json"), of!)
          if (damage !== undefined) return yield* new StoreError({ message: describeDamage(`The report ${name}`, damage) })
          return { name, numbers: numbersIn(content) }
        })
      ),
      run: run === undefined ? null : { id: run.id, pipeline: run.pipeline, seed: asked?.seed ?? null, node: asked?.process.node ?? null }
    }
  })

export interface Compute {
  /** Wall time of the stages that computed on one GPU each, and of all others. */
  readonly gpuHours: number
  readonly otherHours: number
  readonly gpus: ReadonlyArray<string>
  readonly energyKwh: number
  readonly carbonKg: number
}

/** Resources used by the stages: GPU power from data sheets, as in Llama 2's table 2. */
export const computeOf = (steps: ReadonlyArray<Pick<Making, "milliseconds" | "numerics">>): Compute => {
  let [gpuHours, otherHours, energy, carbon] = [0, 0, 0, 0]
  const gpus = new Set<string>()
  for (const { milliseconds, numerics } of steps) {
    const gpu = presentGpu(numerics)
    const hours = milliseconds / 3_600_000
    if (gpu === undefined) {
      otherHours += hours
      continue
    }
    gpuHours += hours
    energy += energyKwh(hours, gpu.watts)
    carbon += carbonKg(hours, gpu.watts)
    gpus.add(`${gpu.name}, ${gpu.watts} W`)
  }
  return { gpuHours, otherHours, gpus: [...gpus], energyKwh: energy, carbonKg: carbon }
}
