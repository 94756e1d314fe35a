/**
 * The reports of running nodes: `logs/<run>/<node>.steps.jsonl`, one object per line, for watchers (cli/ui). The curve stored with a result
 * (curve.ts) contains all of it and more, so the file is deleted when its node ends. A file left by a killed run stays next to the log.
 */
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs"
import { dirname } from "node:path"
import { visibleJson } from "../../schemas/visible.ts"
import type { Progress } from "../define/stage-info.ts"
import type { RunEvent } from "./events.ts"
import { curvesPath, stepsPath } from "./node-log.ts"

/** Delay before a report is written, in milliseconds; a node that ends sooner writes none. */
const interval = 200
/** Maximum file size; the stored curve still has every step. */
const maxBytes = 64 << 20

interface Steps {
  lines: Array<string>
  file: number | undefined
  bytes: number
}

/** JSON has no NaN or infinity, so they are strings, as in event files. */
const lineOf = (progress: Progress, now: number): string =>
  `${visibleJson({ at: now, ...progress }, undefined, (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value))}\n`

/** Listens to one run. Write errors are ignored: the run does not need these files. */
export const writeLiveSteps = (home: string): { readonly onEvent: (event: RunEvent) => void; readonly close: () => void } => {
  const open = new Map<string, Steps>()
  let run = ""
  let timer: NodeJS.Timeout | undefined
  const flush = () => {
    timer = undefined
    for (const [node, steps] of open) {
      if (steps.lines.length === 0) continue
      const text = steps.lines.join("")
      steps.lines = []
      if (steps.bytes + text.length > maxBytes) continue
      try {
        if (steps.file === undefined) {
          const path = stepsPath(home, run, node)
          mkdirSync(dirname(path), { recursive: true })
          steps.file = openSync(path, "a", 0o600)
        }
        steps.bytes += text.length
        writeSync(steps.file, text)
      } catch {
        steps.bytes = maxBytes
      }
    }
  }
  const end = (node: string, steps: Steps, keep: boolean) => {
    open.delete(node)
    if (steps.file === undefined) return
    closeSync(steps.file)
    if (!keep) rmSync(stepsPath(home, run, node), { force: true })
  }
  return {
    onEvent: (event) => {
      if (event.type === "run-started") run = event.run
      else if (event.type === "node-started") open.set(event.node, { lines: [], file: undefined, bytes: 0 })
      else if (event.type === "progress") {
        const steps = open.get(event.node)
        if (steps === undefined) return
        steps.lines.push(lineOf(event.progress, Date.now()))
        timer ??= setTimeout(flush, interval).unref()
      } else if (event.type === "node-finished") {
        const steps = open.get(event.node.id)
        // A killed stage may have saved less of its curve than it had reported.
        const isAll = event.node.status !== "failed" || existsSync(curvesPath(home, run, event.node.id))
        if (steps === undefined) return
        if (!isAll) flush()
        end(event.node.id, steps, !isAll)
      }
    },
    close: () => {
      clearTimeout(timer)
      flush()
      for (const [node, steps] of open) end(node, steps, true)
    }
  }
}
