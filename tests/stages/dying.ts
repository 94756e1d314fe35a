/** Stages that die in this process, at a moment that is told, and live again on the checkpoints they left. */
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

/** What a killed process leaves nothing of. */
class Killed extends Error {}

export interface Death {
  /** With so many checkpoints written in this life. */
  readonly after: number
  /** Just after the last of them, while the next is being written, or on telling of the step before that. */
  readonly when: "written" | "writing" | "telling"
}
export const ways = ["written", "writing", "telling"] as const

/** A life of the stage: until its death, or to its end. A checkpoint is due after every step. */
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
        // A dead process has no last words.
        if (dead) return
        const last = saves === death?.after
        yield* inner.save(step, last && death?.when === "writing" ? (fresh, hold) => Effect.andThen(write(fresh, hold), die) : write)
        // What is still being written when a process dies is another matter: runtime/store/resume-points.test.ts.
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
          // That it ends early is no note on resuming.
          if (note !== undefined && !note.startsWith("stops after")) notes.push(note)
          return note === undefined && death?.when === "telling" && saves === death.after ? die : Effect.void
        })
    })
  )
  if (Exit.isSuccess(exit)) return { output: comparable(exit.value), saves, notes }
  if (!(Cause.squash(exit.cause) instanceof Killed)) throw Cause.squash(exit.cause)
  return { output: undefined, saves, notes }
}

/** All but what is measured by a clock. */
const comparable = ({ digest, metrics }: { readonly digest: string; readonly metrics: Readonly<Record<string, number>> }) => ({
  digest,
  metrics: Object.fromEntries(Object.entries(metrics).filter(([name]) => !name.endsWith("Seconds")))
})

/** What the stage gives without a checkpoint and undisturbed. */
export const undisturbed = async ({ stage, inputs, config }: Resumable) => comparable(await runStage(stage, inputs, config))
