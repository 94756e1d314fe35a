/** Runs a fuzzer over seeds: in this process, or for some minutes in children that are watched for hanging and for memory. */
import { spawn } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** Checks what one seed makes, in a folder for it. Rejects if our code is at fault. */
export type Fuzz = (seed: number, folder: string) => Promise<void>

/** A seed that takes longer than this hangs: seconds of computing, or of waiting for something other than the machine. */
const patience = 120

/** Processor seconds of a process, and whether one of its threads waits for a processor or a disk; undefined if the system does not report it. */
const stateOf = (pid: number): { readonly cpu: number; readonly isWaiting: boolean } | undefined => {
  try {
    const stats = readdirSync(`/proc/${pid}/task`).map((task) => readFileSync(`/proc/${pid}/task/${task}/stat`, "latin1"))
    // After the name, which may contain anything: the state, ..., and as the 12th and 13th ticks of a hundredth of a second.
    const fields = stats.map((stat) => stat.slice(stat.lastIndexOf(")") + 2).split(" "))
    return {
      cpu: fields.reduce((sum, each) => sum + (Number(each[11]) + Number(each[12])) / 100, 0),
      isWaiting: fields.some(([state]) => state === "R" || state === "D")
    }
  } catch {
    return undefined
  }
}
/** A process that holds more than this after a seed leaks. */
const mostBytes = 2 ** 31

const range = async (fuzz: Fuzz, from: number, to: number): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-fuzz-"))
  try {
    for (let seed = from; seed < to; seed++) {
      if (process.send !== undefined) process.send(seed)
      try {
        await fuzz(seed, folder)
      } catch (cause) {
        console.log(`seed ${seed}: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`)
        process.exitCode = 1
      }
      const { rss } = process.memoryUsage()
      if (rss > mostBytes) {
        console.log(`seed ${seed}: ${Math.round(rss / 2 ** 20)} MiB`)
        process.exitCode = 1
        return
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const watched = (program: string, from: number, to: number): Promise<void> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [program, `${from}`, `${to}`], { stdio: ["ignore", "inherit", "inherit", "ipc"] })
    let [seed, seconds, cpu] = [from, 0, 0]
    child.on("message", (now) => ([seed, seconds] = [Number(now), 0]))
    const watch = setInterval(() => {
      const state = stateOf(child.pid!)
      const computed = Math.max(0, (state?.cpu ?? 0) - cpu)
      cpu = state?.cpu ?? 0
      seconds += state === undefined ? 1 : state.isWaiting ? computed : 1
      if (seconds < patience) return
      console.log(`seed ${seed}: does not end`)
      child.kill("SIGKILL")
    }, 1000)
    child.on("exit", (code, signal) => {
      clearInterval(watch)
      if (code !== 0) {
        console.log(`seeds ${from} to ${to}: the process ended with ${code ?? signal} at seed ${seed}`)
        process.exitCode = 1
      }
      resolve()
    })
  })

/** The command line of a fuzzer: `<from> <to>`, or `--minutes <n>`, which begins with a random seed. */
export const runFuzzer = async (program: string, fuzz: Fuzz, args: ReadonlyArray<string>, seedsPerChild = 500): Promise<void> => {
  const [first, second] = args
  if (first !== "--minutes") return range(fuzz, Number(first), Number(second))
  const end = Date.now() + Number(second) * 60_000
  const begin = Math.floor(Math.random() * 2 ** 31)
  let from = begin
  for (; Date.now() < end; from += seedsPerChild) await watched(program, from, from + seedsPerChild)
  console.log(`${from - begin} seeds, ${begin} to ${from}`)
}
