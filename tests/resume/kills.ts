/** Runs of a process that runs a pipeline, each ended by kill -9 of the complete process group at a random moment. */
import { spawn } from "node:child_process"
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import * as Effect from "effect/Effect"
import { Random } from "../../engine/random.ts"
import { layer } from "../../runtime/run/layer.ts"
import { latestCurve } from "../curve-rows.ts"
import type { Said } from "./runner.ts"

const runner = new URL("runner.ts", import.meta.url).pathname
const folders: Array<string> = []
export const newHome = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-kills-"))
  folders.push(folder)
  return folder
}
export const removeHomes = (): void => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true, force: true }))

type Done = Extract<Said, { readonly type: "done" }>

/** This many milliseconds after a node has reported this many steps (0: after it has started): a moment that does not depend on the machine's load. */
export interface Moment {
  readonly steps: number
  readonly milliseconds: number
}

/** Runs up to a node, or up to the moment. */
export const live = (home: string, node: string, death?: Moment) =>
  new Promise<{ readonly steps: number; readonly resumedAfter: number; readonly done: Done | undefined }>((resolve) => {
    const child = spawn(process.execPath, [runner, home, node], { detached: true, stdio: ["ignore", "pipe", "inherit"] })
    let [steps, resumedAfter] = [0, 0]
    let done: Done | undefined
    const kill = () => {
      try {
        process.kill(-child.pid!, "SIGKILL")
      } catch {
        // It had already ended.
      }
    }
    let timer: NodeJS.Timeout | undefined
    const dieIfNow = () => {
      if (death?.steps === steps) timer ??= setTimeout(kill, death.milliseconds)
    }
    createInterface({ input: child.stdout }).on("line", (line) => {
      const said = JSON.parse(line) as Said
      if (said.type === "done") done = said
      else if (said.node !== node) return
      else if (said.type === "step") {
        steps++
        dieIfNow()
      } else if (said.type === "resumed") resumedAfter = said.after
      else dieIfNow()
    })
    child.on("close", () => {
      clearTimeout(timer)
      kill()
      resolve({ steps, resumedAfter, done })
    })
  })

/** The node's result and curve in a run that completed. */
export const resultOf = async (home: string, done: Done | undefined, node: string) => {
  const found = done?.nodes.find(({ id }) => id === node)
  if (found?.status !== "ran") throw new Error(`${node} ended as ${JSON.stringify(found)}`)
  const { digest, metrics } = found
  return { digest, metrics, curve: await Effect.runPromise(Effect.provide(latestCurve(node), layer({ home }))) }
}

export interface Killing {
  /** Home in which everything before the node is made; it is copied. */
  readonly from: string
  readonly node: string
  readonly kills: number
  /** Maximum steps per run. */
  readonly longest: number
  readonly seed: number
}

/**
 * Kills the node's runs the given number of times, over as many repeats as that takes: each is restarted in its home until it ends, the last time undisturbed. Returns
 * the results of all, the number of steps reported by all runs, and the number of runs that resumed from a checkpoint.
 */
export const killRepeatedly = async ({ from, node, kills, longest, seed }: Killing) => {
  const random = new Random(seed, "moments of death", node)
  const moment = (): Moment => {
    const steps = random.int(longest + 1)
    // Loading takes longer than a step.
    return { steps, milliseconds: random.next() * (steps === 0 ? 600 : 60) }
  }
  const results: Array<Awaited<ReturnType<typeof resultOf>>> = []
  let [killed, steps, resumed] = [0, 0, 0]
  while (killed < kills) {
    const home = newHome()
    cpSync(from, home, { recursive: true })
    for (;;) {
      const life = await live(home, node, killed < kills ? moment() : undefined)
      steps += life.steps
      if (life.resumedAfter > 0) resumed++
      if (life.done !== undefined) {
        results.push(await resultOf(home, life.done, node))
        break
      }
      killed++
    }
    // A stage that has ended leaves nothing behind.
    const left = join(home, "checkpoints")
    if (existsSync(left) && readdirSync(left).length > 0) throw new Error(`checkpoints are left: ${readdirSync(left).join(", ")}`)
    rmSync(home, { recursive: true, force: true })
  }
  return { results, killed, steps, resumed }
}
