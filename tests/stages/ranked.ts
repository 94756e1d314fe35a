/** Stages run as several ranks, in separate processes, as a run starts them. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import { openSafetensors } from "../../models/safetensors.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import { processPool } from "../../runtime/run/process-pool.ts"
import type { Sharding } from "../../runtime/run/ranks.ts"
import type { Outcome } from "../../runtime/run/run-stage.ts"
import { isShared } from "../engine/ranks/devices.ts"
import type { Resumable } from "./resumable.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-ranks-"))
// Read by the processes that start below.
process.env.SHARED_GPU = isShared ? "yes" : "no"
const prepareModule = new URL("../engine/ranks/prepare.ts", import.meta.url).href
const scope = Scope.makeUnsafe()
export const execute = Effect.runSync(Effect.provideService(processPool(prepareModule), Scope.Scope, scope))
afterAll(() => {
  Effect.runSync(Scope.close(scope, Exit.void))
  rmSync(root, { recursive: true, force: true })
})

let made = 0
export const newFolder = (): string => {
  const path = join(root, `${++made}`)
  mkdirSync(path)
  return path
}

export interface How {
  /** None: one process without a group. */
  readonly ranks?: number
  readonly sharding?: Sharding
  readonly seconds?: number
  readonly device?: "cpu" | "cuda"
  readonly checkpoints?: string
  /** Seconds between checkpoints; by default after every step. */
  readonly every?: number
  readonly config?: Record<string, unknown>
  readonly onProgress?: (progress: Progress) => void
}

/** A running stage: an effect, and its output folder. */
export const running = ({ config, inputs, stage }: Resumable, how: How = {}) => {
  const { checkpoints, device = "cpu", ranks, seconds = 60, sharding = "weights" } = how
  const output = newFolder()
  const told: Array<Progress> = []
  const work = execute({
    stage: stage.stage,
    job: {
      ...{ module: stage.stage.module, exportName: nameOf(stage.stage.name), config: { ...config, ...how.config }, inputs },
      ...{ output, seed: 1, device, threads: 1, skippedLimit: 1 },
      checkpoints: checkpoints === undefined ? null : { folder: checkpoints, seconds: how.every ?? 0 },
      ...(ranks === undefined ? {} : { ranks: { size: ranks, sharding, seconds, nodes: 1 } })
    },
    code: { digest: "", exportName: nameOf(stage.stage.name), root: output, files: {}, packages: {} },
    cache: {
      code: () => Effect.undefined,
      recordCode: () => Effect.void,
      fileDigest: () => Effect.undefined,
      recordFile: () => Effect.void
    },
    onProgress: (progress) => {
      told.push(progress)
      how.onProgress?.(progress)
    }
  })
  return { work, output, told }
}

/** Stages are exported by their names in camel case. */
const nameOf = (name: string): string => name.replaceAll(/-./g, (two) => two[1]!.toUpperCase())

export interface Ran extends Pick<Outcome, "metrics"> {
  readonly output: string
  /** Its reports of each step, without clock and memory values. */
  readonly curve: ReadonlyArray<Readonly<Record<string, number>>>
  readonly notes: ReadonlyArray<string>
}

export const run = async (one: Resumable, how: How = {}): Promise<Ran> => {
  const { output, told, work } = running(one, how)
  const { metrics } = await Effect.runPromise(work)
  return { output, metrics: withoutTimes(metrics), curve: curveOf(told), notes: told.flatMap(({ note }) => note ?? []) }
}
export const failure = (one: Resumable, how: How): Promise<StageError> => Effect.runPromise(Effect.flip(running(one, how).work))

const withoutTimes = <A>(numbers: Readonly<Record<string, A>>) =>
  Object.fromEntries(Object.entries(numbers).filter(([name]) => !/Seconds$|gpuMemory$/i.test(name)))
const curveOf = (told: ReadonlyArray<Progress>) =>
  told
    .map((report) => withoutTimes(Object.fromEntries(Object.entries(report).filter(([, value]) => typeof value === "number"))))
    .filter((report) => "loss" in report || "heldOutLoss" in report || "heldOutReward" in report) as Ran["curve"]

/** The weights in a stage's output, by name. */
export const weightsIn = (folder: string): Promise<Readonly<Record<string, ReadonlyArray<number>>>> =>
  Effect.runPromise(
    Effect.acquireUseRelease(
      openSafetensors(join(folder, "model.safetensors")),
      Effect.fnUntraced(function* (file) {
        const out: Record<string, ReadonlyArray<number>> = {}
        for (const name of file.entries.keys()) {
          const tensor = yield* file.read(name, { dtype: "float32" })
          out[name] = tensor.toNumbers()
          tensor.free()
        }
        return out
      }),
      (file) => Effect.promise(() => file.close())
    )
  )

/** The largest difference between two lists of numbers by name. */
export const apart = (
  a: Readonly<Record<string, ReadonlyArray<number> | number>>,
  b: Readonly<Record<string, ReadonlyArray<number> | number>>
): number =>
  Math.max(
    ...Object.entries(a).map(([name, some]) => {
      const [one, other] = [[some].flat(), [b[name] ?? NaN].flat()]
      return one.length === other.length ? one.reduce((most, x, i) => Math.max(most, Math.abs(x - other[i]!)), 0) : NaN
    })
  )
