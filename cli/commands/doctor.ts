/** `caravan doctor`: checks this machine, and prints its problems with the commands that fix them. Works without libtorch. */
import { spawnSync } from "node:child_process"
import { accessSync, constants, existsSync, readFileSync, statfsSync } from "node:fs"
import { availableParallelism, cpus, totalmem } from "node:os"
import { dirname } from "node:path"
import * as build from "../../engine/native/build.mjs"
import { isFastBlas, systemBlas } from "../../engine/native/libtorch.mjs"
import type { Environment } from "../../engine/device.ts"
import { storeProblems } from "../../runtime/store/health.ts"
import { findHome } from "../../runtime/store/home.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { type Command, exitCodes } from "../command.ts"
import { write, writeJson } from "../output.ts"

export interface Problem {
  readonly what: string
  /** The command that fixes it. */
  readonly fix: string
  /** Nothing that computes with tensors runs until this is fixed. */
  readonly essential: boolean
}
export interface Diagnosis {
  readonly ok: boolean
  /** In display order. */
  readonly found: Readonly<Record<string, string>>
  readonly problems: ReadonlyArray<Problem>
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`
const firstLine = (text: string): string => text.split("\n", 1)[0]!.trim()

/** Physical cores, counting hyperthreads once; undefined if the kernel does not report them. */
const physicalCores = (): number | undefined => {
  if (!existsSync("/proc/cpuinfo")) return undefined
  const blocks = readFileSync("/proc/cpuinfo", "utf8").split("\n\n")
  const cores = blocks.flatMap((block) => {
    const field = (name: string) => new RegExp(`^${name}\\s*: (\\d+)$`, "m").exec(block)?.[1]
    const core = field("core id")
    return core === undefined ? [] : [`${field("physical id")}/${core}`]
  })
  return cores.length === 0 ? undefined : new Set(cores).size
}

const describeCpu = (environment: Environment | undefined): string => {
  const physical = physicalCores()
  const cores = `${availableParallelism()} cores${physical === undefined ? "" : ` (${physical} physical)`}`
  const capability = environment === undefined ? "" : `, ${environment.cpuCapability}`
  return `${cpus()[0]?.model ?? process.arch}, ${cores}${capability}, ${gigabytes(totalmem())} memory`
}

const describeGpu = (environment: Environment | undefined): string => {
  if (environment !== undefined && environment.gpus > 0) return `${environment.gpus} x ${environment.gpu}`
  const answer = spawnSync("nvidia-smi", ["--query-gpu=name", "--format=csv,noheader"], { encoding: "utf8" })
  if (answer.status !== 0 || answer.stdout.trim() === "") return "none"
  const names = answer.stdout.trim().split("\n")
  return `${names.length} x ${names[0]!} (${environment === undefined ? "the addon says whether it can be used" : "this libtorch can't use it"})`
}

/** Where the store is, whether it is writable, and the free space. */
const describeStore = (home: string): { readonly text: string; readonly writable: boolean; readonly free: number } => {
  let existing = home
  while (!existsSync(existing)) existing = dirname(existing)
  const { bavail, bsize } = statfsSync(existing)
  let writable = true
  try {
    accessSync(existing, constants.W_OK)
  } catch {
    writable = false
  }
  const free = bavail * bsize
  return {
    text: `${home}${existing === home ? "" : " (not created yet)"}, ${writable ? "writable" : "not writable"}, ${gigabytes(free)} free`,
    writable,
    free
  }
}

const sources: Record<build.Libtorch["source"], string> = {
  LIBTORCH: "set by LIBTORCH",
  python: "the torch package of the installed Python",
  system: "a system package",
  archive: "the archive downloaded by setup"
}

/** Checks everything; builds and installs nothing. */
export const diagnose = async (directory: string = process.cwd()): Promise<Diagnosis> => {
  const found: Record<string, string> = {}
  const problems: Array<Problem> = []
  const wrong = (what: string, fix: string, essential: boolean) => problems.push({ what, fix, essential })

  found.node = `${process.version} (${process.execPath})`
  if (Number(process.versions.node.split(".")[0]) < 24)
    wrong(`This is Node ${process.version}; Caravan needs 24 or later.`, "npm install node@24", true)

  let libtorch: build.Libtorch | undefined
  try {
    libtorch = build.findLibtorch()
    if (libtorch === undefined) wrong("libtorch was not found.", "npx caravan setup", true)
  } catch (error) {
    wrong(messageOf(error), "unset LIBTORCH", true)
  }
  found.libtorch =
    libtorch === undefined
      ? "none"
      : `${libtorch.version}${libtorch.cuda ? " with CUDA" : ""}, ${sources[libtorch.source]}${libtorch.libDir === undefined ? "" : ` (${libtorch.libDir})`}`

  const compiler = process.env.CXX || "g++"
  const compilerVersion = spawnSync(compiler, ["--version"], { encoding: "utf8" })
  found.compiler = compilerVersion.status === 0 ? firstLine(compilerVersion.stdout) : "none"

  let environment: Environment | undefined
  found.addon = "not built"
  if (libtorch !== undefined) {
    const path = build.addonPath(libtorch)
    if (existsSync(path)) {
      try {
        const device = await import("../../engine/device.ts")
        environment = device.environment()
        found.addon = path
        const missing = device.gpuKernelsMissing()
        if (missing !== undefined)
          wrong(
            `Fused GPU kernels are not available, so slower libtorch operators run instead: ${missing}.`,
            "python3 -m pip install nvidia-cuda-nvrtc",
            false
          )
      } catch (error) {
        found.addon = `${path}, but it does not load`
        wrong(`The tensor addon does not load: ${firstLine(messageOf(error))}`, `rm -r ${dirname(path)} && npx caravan setup`, true)
      }
    } else if (compilerVersion.status === 0)
      wrong("The tensor addon is not built yet; the first run builds it in about a minute.", "npx caravan setup", false)
    else wrong(`The tensor addon is not built, and the C++ compiler (${compiler}) was not found.`, "apt-get install g++", true)
  }

  const blas = environment?.blas || systemBlas()
  found.blas = blas ?? "unknown"
  if (libtorch?.source === "system" && !isFastBlas(blas)) {
    wrong(
      "libtorch uses the reference BLAS for matrix products: training is up to 40 times slower.",
      "apt-get install --no-install-recommends libopenblas0-pthread",
      false
    )
  }

  found.cpu = describeCpu(environment)
  found.gpu = describeGpu(environment)
  found.threads = `${environment?.threads ?? 1} per operator on the CPU`

  const home = findHome(directory)
  const store = describeStore(home)
  found.store = store.text
  const storeIsWrong = storeProblems(home)
  for (const { what, fix, isEssential } of storeIsWrong) wrong(what, fix, isEssential)
  if (!store.writable && storeIsWrong.length === 0)
    wrong(`The store ${home} is not writable.`, `chown -R "$USER" ${home}, or set CARAVAN_HOME to another folder`, true)
  if (store.free < 2e9) wrong(`The store's disk has ${gigabytes(store.free)} left.`, "set CARAVAN_HOME to a folder on another disk", false)

  return { ok: !problems.some((problem) => problem.essential), found, problems }
}

/** The text output: one line per finding, then the problems. */
export const renderDiagnosis = ({ found, problems }: Diagnosis): string => {
  const facts = Object.entries(found).map(([name, value]) => `${name.padEnd(10)} ${value}`)
  const complaints = problems.map(({ what, fix, essential }) => `${essential ? "wrong" : "note "}      ${what}\n           ${fix}`)
  return [...facts, "", ...(complaints.length === 0 ? ["No problems found."] : complaints), ""].join("\n")
}

export const command: Command = {
  name: "doctor",
  summary:
    "Checks this machine (Node, libtorch, BLAS, CPU, GPU, store) and says what is wrong and how to fix it. Builds and installs nothing.",
  positionals: [],
  flags: { json: { help: "print JSON" } },
  examples: ["caravan doctor", "caravan doctor --json"],
  run: async (given) => {
    const diagnosis = await diagnose()
    if (given.has("json")) writeJson(diagnosis)
    else write(renderDiagnosis(diagnosis))
    return diagnosis.ok ? exitCodes.ok : exitCodes.failed
  }
}
