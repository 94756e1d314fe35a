/** The command line as a user runs it, in a separate folder below .caravan/tests/ (so that relative imports of the sources work). */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"

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
