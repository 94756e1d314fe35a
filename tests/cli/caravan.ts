/** The command line as a user runs it, in a separate folder below .caravan/tests/ (so that relative imports of the sources work). */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"

const root = new URL("../../", import.meta.url).pathname
export const command = join(root, "cli/caravan.js")

/** A new folder three levels below the project's root: sources are at ../../../. */
export const workFolder = (): string => {
  const base = join(root, ".caravan/tests")
  mkdirSync(base, { recursive: true })
  return mkdtempSync(join(base, "t-"))
}
export const removeFolder = (folder: string): void => rmSync(folder, { recursive: true, force: true })

export interface Finished {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

const environmentOf = (folder: string) => ({ ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" })

export const caravan = (folder: string, ...args: ReadonlyArray<string>): Finished => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: folder,
    env: environmentOf(folder),
    encoding: "utf8",
    maxBuffer: 1 << 26
  })
  return { status, stdout, stderr }
}

export const start = (folder: string, ...args: ReadonlyArray<string>): ChildProcess =>
  spawn(process.execPath, [command, ...args], { cwd: folder, env: environmentOf(folder), stdio: ["ignore", "pipe", "pipe"] })

/** Resolves once `what` is true; fails after some seconds. */
export const waitFor = async (what: () => boolean, milliseconds = 20_000): Promise<void> => {
  for (const end = Date.now() + milliseconds; !what(); await sleep(20)) if (Date.now() > end) throw new Error("waited too long")
}

export interface RunDocument {
  readonly status: string
  readonly nodes: ReadonlyArray<{
    readonly id: string
    readonly stage: string
    readonly status: string
    readonly key: string | null
    readonly digest: string | null
    readonly error?: string
  }>
  readonly outputs: Readonly<Record<string, { readonly kind: string; readonly path: string; readonly digest: string }>>
}

export const runJson = (folder: string, ...args: ReadonlyArray<string>): RunDocument & Finished => {
  const finished = caravan(folder, "run", ...args, "--json")
  if (finished.stdout === "") throw new Error(`no document on stdout; exit code ${finished.status}, stderr: ${finished.stderr}`)
  return {
    ...(JSON.parse(finished.stdout) as RunDocument),
    ...finished,
    status: (JSON.parse(finished.stdout) as RunDocument).status
  } as RunDocument & Finished
}

/** Node id -> status. */
export const statuses = (document: RunDocument): Record<string, string> =>
  Object.fromEntries(document.nodes.map((node) => [node.id, node.status]))
