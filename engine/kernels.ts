/**
 * Which of OpenBLAS's kernels multiply matrices on the CPU. OpenBLAS knows processors by their model number, and takes those of 2004 (Prescott, SSE3) for
 * one that is newer than itself: 0.3.21 of Debian 12 does so for Intel's Emerald Rapids, where they take three to five times as long as those for AVX-512
 * (docs/performance.md). Here what the processor can do decides in such a case.
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from "node:fs"
import { cpus } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Libtorch } from "./native/build.mjs"

export interface Processor {
  readonly vendor: string
  /** Family, model and stepping. */
  readonly version: string
  readonly flags: ReadonlySet<string>
}

/** The first processor of Linux's /proc/cpuinfo. */
export const parseProcessor = (cpuinfo: string): Processor => {
  const of = (name: string) => new RegExp(`^${name}[ \\t]*:[ \\t]*(.*)$`, "m").exec(cpuinfo)?.[1]?.trim() ?? ""
  return {
    vendor: of("vendor_id"),
    version: ["cpu family", "model", "stepping"].map(of).join(" "),
    flags: new Set(of("flags").split(" "))
  }
}

/** This machine's; undefined where there is no /proc/cpuinfo. */
export const processor = (): Processor | undefined => {
  try {
    return parseProcessor(readFileSync("/proc/cpuinfo", "utf8"))
  } catch {
    return undefined
  }
}

/** Cores of OpenBLAS whose kernels know no AVX2. No processor that has it is one of them. */
const withoutAvx2 = new Set(
  [
    "Katmai",
    "Coppermine",
    "Northwood",
    "Prescott",
    "Banias",
    "Core2",
    "Penryn",
    "Dunnington",
    "Nehalem",
    "Sandybridge",
    "Atom",
    "Nano"
  ].concat(["Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Bobcat", "Bulldozer", "Piledriver", "Steamroller"])
)

/** Cores whose kernels OpenBLAS should take on this processor in place of `core`, which it took by itself: the best first; none where that is right. */
export const missedCores = ({ flags, vendor }: Processor, core: string): ReadonlyArray<string> => {
  if (!withoutAvx2.has(core) || !flags.has("avx2") || !flags.has("fma")) return []
  const avx512 = ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"].every((flag) => flags.has(flag))
  return [...(avx512 ? ["SkylakeX"] : []), vendor === "AuthenticAMD" ? "Zen" : "Haswell"]
}

/** A file as it is now, for telling whether it has changed. */
const stamp = (path: string): string => {
  if (!existsSync(path)) return `${path} none`
  const { size, mtimeMs } = statSync(path)
  return `${realpathSync(path)} ${size} ${mtimeMs}`
}

/** What decides about kernels and is cheap to see: the processor, and the libraries' files. */
export const machineOf = (libtorch: Libtorch | undefined): ReadonlyArray<string> => {
  const found = processor()
  const folder = libtorch?.libDir ?? "/usr/lib/x86_64-linux-gnu"
  const libraries = existsSync(folder) ? readdirSync(folder).filter((name) => /^lib(torch|c10|openblas|blas|mkl)/.test(name)) : []
  return [
    // The name says little on x86 and all there is elsewhere.
    cpus()[0]?.model ?? "",
    ...(found === undefined ? [] : [found.vendor, found.version, [...found.flags].sort().join(" ")]),
    ...libraries.map((name) => stamp(join(folder, name))),
    stamp("/etc/alternatives/libblas.so.3-x86_64-linux-gnu")
  ]
}

/** How a process ended that was asked. */
export interface Asked {
  readonly status: number | null
  readonly signal: string | null
  readonly stdout: string
  readonly stderr: string
}

/** Loads the addon in a process of its own, multiplies two matrices, and prints what BLAS did it. */
const ask = (addon: string, core: string | undefined): Asked => {
  const script = `
    const addon = require(${JSON.stringify(addon)})
    const ones = addon.fromBytes(new Float32Array(4096).fill(1), [64, 64], 6, "cpu")
    const product = new Float32Array(4096)
    addon.toBytes(addon.call(addon.findOperator("aten::mm", ""), ones, ones), product)
    if (!product.every((value) => value === 64)) process.exit(3)
    process.stdout.write(addon.environment().blas)`
  const env = core === undefined ? process.env : { ...process.env, OPENBLAS_CORETYPE: core }
  return spawnSync(process.execPath, ["-e", script], { encoding: "utf8", env })
}

/** The core at the end of what OpenBLAS says of itself; empty for another BLAS. */
const coreOf = (blas: string): string => (blas.startsWith("OpenBLAS") ? blas.split(" ").at(-1)! : "")

/**
 * The core to set for this addon on this machine; empty: none. Asks libtorch two or three times, up to a second each, and keeps the answer beside the addon: under
 * what it depends on, this module among that. Throws where a process that was asked did not answer: taking slow kernels for that would change what is computed.
 */
export const chosenCore = (addon: string, machine: ReadonlyArray<string>, here: Processor, asking = ask): string => {
  const parts = [...machine, readFileSync(fileURLToPath(import.meta.url), "utf8")]
  const file = join(dirname(addon), `core-${createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16)}`)
  if (existsSync(file)) return readFileSync(file, "utf8")
  /** undefined: the processor, or the product, does not bear these kernels. */
  const answer = (core: string | undefined): string | undefined => {
    const { signal, status, stderr, stdout } = asking(addon, core)
    if (status === 0) return coreOf(stdout)
    if (core !== undefined && (signal === "SIGILL" || status === 3)) return undefined
    const end = signal === null ? `ended with ${status}: ${stderr.trim().split("\n").at(-1)!}` : `was ended by ${signal}`
    throw new Error(
      `Asking libtorch which OpenBLAS kernels it takes on this processor: expected an answer, but the process ${end}. Run this again, or name them in OPENBLAS_CORETYPE (Haswell for AVX2, SkylakeX for AVX-512).`
    )
  }
  const chosen = missedCores(here, answer(undefined)!).find((core) => answer(core) === core) ?? ""
  try {
    writeFileSync(`${file}.${process.pid}`, chosen)
    renameSync(`${file}.${process.pid}`, file)
  } catch {
    // The cache can't be written: asked again next time.
  }
  return chosen
}

/** Before the addon is loaded: sets OPENBLAS_CORETYPE where OpenBLAS would mistake this processor. A user's own setting stays; an empty one is none. */
export const chooseKernels = (addon: string, libtorch: Libtorch | undefined): void => {
  const set = process.env["OPENBLAS_CORETYPE"]
  if (set !== undefined && set !== "") return
  // OpenBLAS takes an empty one for the name of a core that it does not know.
  delete process.env["OPENBLAS_CORETYPE"]
  const here = processor()
  if (here?.flags.has("avx2") !== true) return
  const machine = machineOf(libtorch)
  if (!machine.some((part) => part.includes("openblas"))) return
  const core = chosenCore(addon, machine, here)
  if (core !== "") process.env["OPENBLAS_CORETYPE"] = core
}
