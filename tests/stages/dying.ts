/** Stages that die in this process, at a given moment, and are run again with the checkpoints they left. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { afterAll } from "vitest"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import { openCheckpoints } from "../../runtime/store/resume-points.ts"
import type { Resumable } from "./resumable.ts"
import { runStage, stageEffect } from "./running.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-resume-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let made = 0
/** A new folder for checkpoints. */
export const newFolder = (): string => {
  const path = join(root, `${++made}`)
  mkdirSync(path)
  return path
}

/** State that a killed process loses. */
class Killed extends Error {}

export interface Death {
  /** The number of checkpoints written in this run. */
  readonly after: number
  /** Just after the last of them, while the next is being written, or when the step before that is reported. */
  readonly when: "written" | "writing" | "telling"
}
export const ways = ["written", "writing", "telling"] as const

/** One run of the stage: until its death, or to its end. A checkpoint is due after every step. */
export const live = async ({ stage, inputs, config }: Resumable, folder: string, death?: Death) => {
  const notes: Array<string> = []
  let saves = 0
  const inner = openCheckpoints({ folder, seconds: 0 }, (note) => notes.push(note))
  let dead = false
  const die = Effect.suspend(() => {
    dead = true
    return Effect.die(new Killed())
  })
  const checkpoints: Checkpoints = {
    latest: inner.latest,
    due: inner.due,
    save: (step, write) =>
      Effect.gen(function* () {
        // A dead process does not report anything.
        if (dead) return
        const last = saves === death?.after
        yield* inner.save(step, last && death?.when === "writing" ? (fresh, hold) => Effect.andThen(write(fresh, hold), die) : write)
        // Writes in progress when a process dies are tested elsewhere: runtime/store/resume-points.test.ts.
        yield* inner.settled
        saves++
        if (saves === death?.after && death.when === "written") yield* die
      })
  }
  const exit = await Effect.runPromiseExit(
    stageEffect(stage, inputs, config, {
      checkpoints,
      progress: ({ note }) =>
        Effect.suspend(() => {
          // Its early end is not a note about resuming.
          if (note !== undefined && !note.startsWith("stops after")) notes.push(note)
          return note === undefined && death?.when === "telling" && saves === death.after ? die : Effect.void
        })
    })
  )
  if (Exit.isSuccess(exit)) return { output: comparable(exit.value), saves, notes }
  if (!(Cause.squash(exit.cause) instanceof Killed)) throw Cause.squash(exit.cause)
  return { output: undefined, saves, notes }
}

/** Everything that is not measured by a clock. */
const comparable = ({ digest, metrics }: { readonly digest: string; readonly metrics: Readonly<Record<string, number>> }) => ({
  digest,
  metrics: Object.fromEntries(Object.entries(metrics).filter(([name]) => !name.endsWith("Seconds")))
})

/** The stage's result without checkpoints and undisturbed. */
export const undisturbed = async ({ stage, inputs, config }: Resumable) => comparable(await runStage(stage, inputs, config))
