/**
 * One log per node and run: `logs/<run>/<node>.log`, one line per event, with its time. Written from the run's events, so that anything that shows a
 * run can write it too. Readable only by its owner, because stages may print anything.
 */
import { hash } from "node:crypto"
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, writeSync } from "node:fs"
import { join } from "node:path"
import { skippedText } from "../define/skipped.ts"
import { visible } from "../../schemas/visible.ts"
import { messageOf } from "../errors.ts"
import type { RunEvent } from "./events.ts"

/** Minimum interval between logged steps, in milliseconds: a long training run has millions of them. The last step is always logged. */
const interval = 1000

/** File names have at most 255 bytes; this leaves some for suffixes of other tools. */
const longestName = 240

/** A node's log file. Names that are too long or contain characters that a file system rejects are replaced with a digest at the end. */
export const logPath = (home: string, run: string, node: string): string => join(home, "logs", run, `${fileName(node)}.log`)
/** The file of a failed node's skipped rows. */
export const skippedPath = (home: string, run: string, node: string): string => join(home, "logs", run, `${fileName(node)}.skipped.jsonl`)
/** The file of a failed node's curve. */
export const curvesPath = (home: string, run: string, node: string): string => join(home, "logs", run, `${fileName(node)}.curves.parquet`)

/** The file of a running node's reports (live-steps.ts). */
export const stepsPath = (home: string, run: string, node: string): string => join(home, "logs", run, `${fileName(node)}.steps.jsonl`)

const fileName = (node: string): string => {
  const name = encodeURIComponent(node)
  return name.length <= longestName ? name : `${name.slice(0, longestName - 17)}-${hash("sha256", node).slice(0, 16)}`
}

/** The nodes with a log of this run: those that started in it. */
export const loggedNodes = (home: string, run: string): ReadonlyArray<string> => {
  const folder = join(home, "logs", run)
  if (!existsSync(folder)) return []
  return readdirSync(folder).flatMap((name) => {
    if (!name.endsWith(".log")) return []
    const node = name.slice(0, -".log".length)
    try {
      return [decodeURIComponent(node)]
    } catch {
      // A long name, cut inside a character.
      return [node]
    }
  })
}

interface Open {
  readonly file: number
  logged: number
  waiting: string | undefined
}

const fieldsOf = (fields: Readonly<Record<string, number | string | undefined>>): string =>
  Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} ${value}`)
    .join("  ")

/** Listens to one run and writes its nodes' logs; call `close` at the end. If a log can't be written, `onError` is called once and the run continues. */
export const writeNodeLogs = (
  home: string,
  onError: (node: string, message: string) => void
): { readonly onEvent: (event: RunEvent) => void; readonly close: () => void } => {
  const open = new Map<string, Open>()
  let run = ""
  let broken = false
  const attempt = (node: string, body: () => void) => {
    if (broken) return
    try {
      body()
    } catch (cause) {
      broken = true
      onError(node, `its log can't be written (${messageOf(cause)}): this run continues without logs`)
    }
  }
  const write = (log: Open, text: string) => {
    const time = new Date().toISOString()
    writeSync(
      log.file,
      visible(text)
        .trimEnd()
        .split("\n")
        .map((line) => `${time} ${line}\n`)
        .join("")
    )
  }
  const flush = (log: Open) => {
    if (log.waiting !== undefined) write(log, log.waiting)
    log.waiting = undefined
  }
  const say = (node: string, text: string) => {
    const log = open.get(node)
    if (log === undefined) return
    attempt(node, () => {
      flush(log)
      write(log, text)
    })
  }
  return {
    onEvent: (event) => {
      switch (event.type) {
        case "run-started":
          run = event.run
          break
        case "node-started":
          attempt(event.node, () => {
            if (open.size === 0) mkdirSync(join(home, "logs", run), { recursive: true })
            open.set(event.node, { file: openSync(logPath(home, run, event.node), "a", 0o600), logged: 0, waiting: undefined })
          })
          say(event.node, `stage ${event.stage} starts: ${event.why.join("; ")}`)
          break
        case "progress": {
          const log = open.get(event.node)
          if (log === undefined) break
          const text = fieldsOf(event.progress)
          const now = performance.now()
          if (log.logged !== 0 && now - log.logged < interval) log.waiting = text
          else {
            log.waiting = undefined
            log.logged = now
            attempt(event.node, () => write(log, text))
          }
          break
        }
        case "output":
          say(event.node, event.text)
          break
        case "note":
          say(event.node, event.message)
          break
        case "node-finished": {
          const { id, status, error, metrics, milliseconds, digest } = event.node
          const log = open.get(id)
          if (log === undefined) break
          const how = status === "ran" ? `done: ${digest}` : `${status}${error === null ? "" : `: ${error}`}`
          for (const count of event.node.skipped) say(id, skippedText(count))
          if (event.node.skippedRows !== null) say(id, `the skipped rows are listed in ${event.node.skippedRows}`)
          say(id, `${how}\nafter ${(milliseconds / 1000).toFixed(1)} s${Object.keys(metrics).length > 0 ? `  ${fieldsOf(metrics)}` : ""}`)
          closeSync(log.file)
          open.delete(id)
          break
        }
        // A node that waits for another run has no log here.
        case "node-waiting":
        case "reading":
        case "downloading":
        case "run-finished":
          break
      }
    },
    close: () => {
      for (const [node, log] of open) {
        say(node, "the run ended before this node did")
        closeSync(log.file)
      }
      open.clear()
    }
  }
}
