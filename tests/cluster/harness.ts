/** A real Slurm of three nodes on this machine (slurm.sh), and drivers that use it, in separate folders. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { command, removeFolder, type RunDocument, workFolder } from "../cli/caravan.ts"

const script = new URL("slurm.sh", import.meta.url).pathname
const pipeline = new URL("pipeline.ts", import.meta.url).pathname

export interface Slurm {
  readonly folder: string
  readonly environment: NodeJS.ProcessEnv
  /** Runs one of Slurm's commands. */
  readonly command: (program: string, ...args: ReadonlyArray<string>) => string
  readonly script: (what: string, ...more: ReadonlyArray<string>) => void
  /** Kills a daemon like kill -9: "slurmctld", or "slurmd-n2" with all its children. */
  readonly kill: (daemon: string) => void
  /** Starts killed daemons, ends all jobs, and skips job ids that a killed controller may give again. */
  readonly restore: () => void
  readonly down: () => void
}

/** Starts Slurm; returns the reason if it is not available here. */
export const bringUp = (): Slurm | string => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-slurm-"))
  const { status, stderr } = spawnSync("bash", [script, "up", folder], { encoding: "utf8" })
  const environment = { ...process.env, SLURM_CONF: join(folder, "slurm.conf") }
  const down = () => void spawnSync("bash", [script, "down", folder], { encoding: "utf8" })
  if (status !== 0) {
    down()
    return stderr.trim()
  }
  const run = (program: string, ...args: ReadonlyArray<string>) => {
    const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", env: environment })
    if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${stderr}`)
    return stdout.trim()
  }
  // A controller that was killed before it saved its last jobs gives their ids to the next ones. A slurmd that remembers such an id does not start the job, and the controller drains its node
  // ("Duplicate jobid").
  let [hasLostIds, firstId] = [false, 0]
  return {
    folder,
    environment,
    command: run,
    script: (what, ...more) => void run("bash", script, what, folder, ...more),
    kill: (daemon) => {
      hasLostIds ||= daemon === "slurmctld"
      process.kill(Number(readFileSync(join(folder, `${daemon}.pid`), "utf8")), "SIGKILL")
      const node = daemon.replace("slurmd-", "")
      if (node !== daemon)
        for (const pid of processes((environ) => environ.includes(`SLURMD_NODENAME=${node}\0`) && environ.includes(folder)))
          process.kill(pid, "SIGKILL")
    },
    restore: () => {
      const isAlive = (daemon: string) => {
        try {
          return !/^State:.*Z/m.test(readFileSync(`/proc/${readFileSync(join(folder, `${daemon}.pid`), "utf8").trim()}/status`, "utf8"))
        } catch {
          return false
        }
      }
      if (!isAlive("slurmctld")) run("bash", script, "controller", folder)
      for (const node of ["n1", "n2", "n3"]) {
        if (!isAlive(`slurmd-${node}`)) run("bash", script, "node", folder, node)
        spawnSync("scontrol", ["update", `nodename=${node}`, "state=resume"], { env: environment })
      }
      if (hasLostIds) run("bash", script, "ids", folder, String((firstId += 100)))
      hasLostIds = false
      spawnSync("scancel", ["--me"], { env: environment })
    },
    down
  }
}

/** Processes with the given environment. */
export const processes = (isSo: (environ: string) => boolean): ReadonlyArray<number> =>
  readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      return isSo(readFileSync(`/proc/${name}/environ`, "utf8")) ? [Number(name)] : []
    } catch {
      return []
    }
  })

export interface Driver {
  readonly process: ChildProcess
  /** Its stderr so far. */
  readonly said: () => string
  /** Waits until it has printed something. */
  readonly says: (what: RegExp, seconds?: number) => Promise<void>
  readonly ended: Promise<{ readonly code: number | null; readonly document: RunDocument | undefined; readonly said: string }>
}

export interface Place {
  readonly folder: string
  readonly home: string
  readonly diary: () => ReadonlyArray<string>
  readonly configure: (config: object) => void
  /** The pipeline of two walks, or another with what is set of it. */
  readonly start: (
    flags: ReadonlyArray<string>,
    environment?: NodeJS.ProcessEnv,
    other?: { readonly pipeline: string; readonly sets: ReadonlyArray<string> }
  ) => Driver
  /** Runs a pipeline of this folder to its end, with `name=value` settings. */
  readonly run: (pipeline: string, sets: ReadonlyArray<string>, flags: ReadonlyArray<string>) => RunDocument
  readonly caravan: (...args: ReadonlyArray<string>) => { readonly status: number | null; readonly stdout: string; readonly stderr: string }
  readonly remove: () => void
}

/** A separate project with a home and caravan.json. Each of its two walks has `steps` steps of `pause` ms. */
export const makePlace = (environment: NodeJS.ProcessEnv, { steps = 10, pause = 20 } = {}): Place => {
  const folder = workFolder()
  const home = join(folder, "home")
  writeFileSync(join(folder, "package.json"), `{ "type": "module" }`)
  writeFileSync(join(folder, "words.txt"), "alpha\nbeta\n")
  const configure = (config: object) => writeFileSync(join(folder, "caravan.json"), JSON.stringify(config))
  configure({ slurm: { pollSeconds: 1, profiles: { default: { partition: "low", cpus: 1, memory: 500 } } } })
  const diary = join(folder, "diary")
  const env = { ...environment, CARAVAN_HOME: home, NODE_OPTIONS: "" }
  const settings = { file: join(folder, "words.txt"), steps, pause, diary }
  return {
    folder,
    home,
    diary: () => (existsSync(diary) ? readFileSync(diary, "utf8").trim().split("\n") : []),
    configure,
    start: (flags, more = {}, other) => {
      const sets = other?.sets ?? Object.entries(settings).map(([name, value]) => `${name}=${value}`)
      const words = sets.flatMap((set) => ["--set", set])
      const usual = other === undefined ? ["--checkpoint-seconds", "0"] : []
      const args = [command, "run", other?.pipeline ?? pipeline, ...words, "--json", ...usual, ...flags]
      const child = spawn(process.execPath, args, { cwd: folder, env: { ...env, ...more }, stdio: ["ignore", "pipe", "pipe"] })
      let [said, out] = ["", ""]
      child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text))
      child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text))
      const ended = new Promise<Awaited<Driver["ended"]>>((resolve) => {
        child.once("close", (code) => resolve({ code, document: out === "" ? undefined : (JSON.parse(out) as RunDocument), said }))
      })
      const says = async (what: RegExp, seconds = 60) => {
        for (const until = performance.now() + seconds * 1000; !what.test(said); await pausing(50)) {
          if (performance.now() > until) throw new Error(`In ${seconds} s it did not say ${String(what)}, but:\n${said}`)
          if (child.exitCode !== null && !what.test(said))
            throw new Error(`It ended with ${child.exitCode} before it said ${String(what)}:\n${said}`)
        }
      }
      return { process: child, said: () => said, says, ended }
    },
    run: (name, sets, flags) => {
      const file = new URL(name, import.meta.url).pathname
      const args = [command, "run", file, "--json", ...sets.flatMap((set) => ["--set", set]), ...flags]
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, env, encoding: "utf8" })
      if (status !== 0) throw new Error(stderr)
      return JSON.parse(stdout) as RunDocument
    },
    caravan: (...args) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], { cwd: folder, env, encoding: "utf8" })
      return { status, stdout, stderr }
    },
    remove: () => removeFolder(folder)
  }
}

export const pausing = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))

export const until = async (what: string, isSo: () => boolean, seconds = 60): Promise<void> => {
  for (const end = performance.now() + seconds * 1000; !isSo(); await pausing(100))
    if (performance.now() > end) throw new Error(`In ${seconds} s it did not come to this: ${what}`)
}

/** Node -> digest. */
export const digestsOf = (document: RunDocument | undefined) =>
  Object.fromEntries((document?.nodes ?? []).map(({ id, digest }) => [id, digest]))
export const statusesOf = (document: RunDocument | undefined) =>
  Object.fromEntries((document?.nodes ?? []).map(({ id, status }) => [id, status]))
export const remove = (path: string) => rmSync(path, { recursive: true, force: true })
