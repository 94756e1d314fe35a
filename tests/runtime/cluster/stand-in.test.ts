/**
 * Parts of the Slurm executor that need states which a real Slurm rarely shows (tests/cluster has a real one): commands in PATH stand in for
 * sbatch and squeue.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmdirSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, expect, it } from "vitest"
import { command } from "../../../cli/commands/jobs.ts"
import { parse } from "../../../cli/command.ts"
import { claimFolder } from "../../../runtime/cluster/home.ts"
import type { JobFile } from "../../../runtime/cluster/job-files.ts"
import { logIn, runHere } from "../../../runtime/cluster/on-node.ts"
import { numericsOfNode } from "../../../runtime/cluster/probe.ts"
import { slurm, type SlurmOptions } from "../../../runtime/cluster/slurm.ts"
import type { Work } from "../../../runtime/run/execute.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const path = process.env["PATH"]
let folder: string
let home: string
const program = (name: string, text: string) => {
  writeFileSync(join(folder, "bin", name), `#!/bin/bash\n${text}\n`)
  chmodSync(join(folder, "bin", name), 0o755)
}
beforeEach(() => {
  folder = realpathSync(workFolder())
  home = join(folder, "home")
  mkdirSync(join(folder, "bin"))
  process.env["PATH"] = `${join(folder, "bin")}:${path}`
})
afterEach(() => {
  process.env["PATH"] = path
  removeFolder(folder)
})

/** Counts jobs in `jobs`, and lists them as COMPLETING: they have ended, and their nodes are being cleaned up. */
const submitting = (rest: string) => {
  program(
    "sbatch",
    `echo job >> ${folder}/jobs
n=$(wc -l < ${folder}/jobs)
for arg; do case "$arg" in --comment=*) printf '%s\\x1fCOMPLETING\\x1fNone\\x1fn1\\x1fp\\x1f%s\\x1fx\\n' $n "\${arg#--comment=}" >> ${folder}/states ;; esac; done
folder=$(dirname "\${@: -1}")
${rest}
echo $n`
  )
  program("squeue", `cat ${folder}/states`)
}
const jobs = () => readFileSync(join(folder, "jobs"), "utf8").trim().split("\n").length

const failing = (reason: string) =>
  submitting(`mkdir $folder/$n-0
echo '{"type":"failed","host":"n1","error":{"reason":"${reason}","message":"it failed","isRetryable":true}}' > $folder/$n-0/outcome.json
printf '%s' $n-0 > $folder/current`)

const execute = async (): Promise<string> => {
  const options: SlurmOptions = { home, config: { pollSeconds: 0.2 }, engine: {} }
  const work = {
    stage: { name: "stage", resources: {} },
    job: { module: "file:///none.ts", config: {}, inputs: {}, output: join(home, "tmp/out"), device: "cpu", checkpoints: null },
    code: {},
    onProgress: () => undefined,
    on: { key: "k", node: "node", placement: {}, numerics: null, onInterruption: () => "leave" }
  } as unknown as Work
  mkdirSync(home, { recursive: true })
  return Effect.runPromise(
    slurm(options).open.pipe(
      Effect.flatMap((run) => Effect.flip(run(work))),
      Effect.map(({ message }) => message),
      Effect.scoped
    )
  )
}

it("a retry of a failed job submits a new one, although Slurm still lists the failed one as running", async () => {
  failing("Crash")
  expect([await execute(), jobs()]).toEqual(["it failed", 1])
  expect([await execute(), jobs()]).toEqual(["it failed", 2])
})

it("a job whose node has other numerics deletes the cached ones, and reports that another attempt may help", async () => {
  failing("Node")
  mkdirSync(join(home, "numerics"), { recursive: true })
  for (const name of ["slurm-1.json", "here.json"]) writeFileSync(join(home, "numerics", name), "{}")
  expect(await execute()).toBe(
    "Its job 1 can't run on n1: it failed. If the nodes have been updated, run again: a node's numerics are then checked again."
  )
  expect(readdirSync(join(home, "numerics"))).toEqual(["here.json"])
  expect(await execute()).toBe("Its job 2 can't run on n1: it failed.")
})

it("a machine without a Slurm configuration is reported as that, not as a refused request", async () => {
  program("sbatch", 'echo "sbatch: fatal: Could not establish a configuration source" >&2; exit 1')
  program("squeue", "")
  expect(await execute()).toMatch(
    /^Submitting the job of node "node": Slurm is not configured on this machine: .*set SLURM_CONF to the path of slurm\.conf\.$/
  )
})

it("a node's numerics are cached for one version of the engine", async () => {
  submitting(`bash "\${@: -1}" > /dev/null 2>&1 &`)
  const describe = join(folder, "describe.mjs")
  writeFileSync(
    describe,
    `import { readFileSync } from "node:fs"\nexport const numericsOf = async () => ({ addon: readFileSync(${JSON.stringify(join(folder, "version"))}, "utf8") })\n`
  )
  const ask = async (version: string) => {
    writeFileSync(join(folder, "version"), version)
    mkdirSync(home, { recursive: true })
    const engine = { describe: pathToFileURL(describe).href, version: () => version }
    return [(await numericsOfNode({ home, config: { pollSeconds: 0.2 }, engine }, "cuda", 1, () => undefined))["addon"], jobs()]
  }
  expect(await ask("one")).toEqual(["one", 1])
  expect(await ask("one")).toEqual(["one", 1])
  expect(await ask("two")).toEqual(["two", 2])
}, 60_000)

it("a node without a setting that is part of the key is rejected, as is one with another value", async () => {
  const describe = join(folder, "describe.mjs")
  writeFileSync(describe, `export const numericsOf = async () => ({ libtorch: "2" })\n`)
  const job = { device: "cuda", threads: 1 } as never
  const file = {
    stage: "stage",
    job,
    numerics: { libtorch: "1", NVIDIA_TF32_OVERRIDE: "1", ranks: "2, sharding weights" },
    describe: pathToFileURL(describe).href,
    numericsFolder: folder
  } as unknown as JobFile
  const log = { onProgress: () => undefined, onOutput: () => undefined, end: () => undefined }
  const { message } = await Effect.runPromise(Effect.flip(runHere(file, job, () => Effect.never, log)))
  expect(message).toMatch(
    /^its numerics do not match the key: libtorch is 2, expected 1; NVIDIA_TF32_OVERRIDE is not set, expected 1\. Choose identical nodes/
  )
})

it("a job's output is readable only by its owner", () => {
  logIn(join(folder, "12-0")).onOutput("a secret of the stage")
  expect(statSync(join(folder, "12-0/events.ndjson")).mode & 0o777).toBe(0o600)
})

it("looking for another driver leaves no files", () => {
  mkdirSync(home)
  writeFileSync(join(home, "driver.json"), JSON.stringify({ home: realpathSync(home), host: "other", space: "other", pid: 1 }))
  expect(() => claimFolder(home, undefined)).toThrow(/another driver uses .*process 1 on other/)
  expect(readdirSync(home).filter((name) => name.startsWith("clock"))).toEqual([])
  expect(existsSync(join(home, "driver.json"))).toBe(true)
})

it("two drivers never claim the folder at the same moment: the second one waits, then gives up", () => {
  mkdirSync(join(home, "driver.lock"), { recursive: true })
  expect(() => claimFolder(home, undefined)).toThrow(
    /another driver is claiming .*\. Run again\. If no other run is starting, delete .*driver\.lock/
  )
  expect(existsSync(join(home, "driver.json"))).toBe(false)
  rmdirSync(join(home, "driver.lock"))
  claimFolder(home, undefined)()
  expect(readdirSync(home)).toContain("driver.json")
  expect(readdirSync(home)).not.toContain("driver.lock")
})

it("jobs --cancel leaves a job alone that only has the id of one of ours", async () => {
  const ours = (key: string, node: string, id: string | null) => {
    mkdirSync(join(home, "jobs", key), { recursive: true })
    const submission = { token: `token-${key}`, id, node, profile: "default", at: 0 }
    writeFileSync(join(home, "jobs", key, "submission.json"), JSON.stringify(submission))
  }
  ours("a", "ended", "7")
  ours("b", "running", "8")
  ours("c", "unconfirmed", null)
  const row = (...cells: ReadonlyArray<string>) => cells.join("\x1f")
  writeFileSync(
    join(folder, "states"),
    [
      row("7", "RUNNING", "None", "n1", "p", "somebody-elses", "x"),
      row("8", "RUNNING", "None", "n1", "p", "token-b", "x"),
      row("9", "PENDING", "None", "", "p", "token-c", "x")
    ].join("\n")
  )
  program("squeue", `cat ${folder}/states`)
  program("scancel", `echo "$@" >> ${folder}/cancelled`)
  const before = process.env["CARAVAN_HOME"]
  process.env["CARAVAN_HOME"] = home
  try {
    expect(await command.run(parse(command, ["--cancel", "all"]))).toBe(0)
  } finally {
    if (before === undefined) delete process.env["CARAVAN_HOME"]
    else process.env["CARAVAN_HOME"] = before
  }
  expect(readFileSync(join(folder, "cancelled"), "utf8").trim().split(" ").sort()).toEqual(["8", "9"])
})
