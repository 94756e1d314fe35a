/**
 * Selects the OpenBLAS kernels that multiply matrices on the CPU. OpenBLAS identifies processors by their model number, and on a processor newer than itself
 * falls back to kernels of 2004 (Prescott, SSE3): 0.3.21 of Debian 12 does so on Intel's Emerald Rapids, where they take three to five times as long as the AVX-512
 * kernels (docs/performance.md). In such a case this module decides by the processor's features.
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

/** This machine's processor; undefined if there is no /proc/cpuinfo. */
export const processor = (): Processor | undefined => {
  try {
    return parseProcessor(readFileSync("/proc/cpuinfo", "utf8"))
  } catch {
    return undefined
  }
}

/** OpenBLAS cores whose kernels do not use AVX2: wrong for any processor that has AVX2. */
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

/** Cores whose kernels OpenBLAS should use on this processor instead of its own choice `core`, best first; empty if its choice is right. */
export const missedCores = ({ flags, vendor }: Processor, core: string): ReadonlyArray<string> => {
  if (!withoutAvx2.has(core) || !flags.has("avx2") || !flags.has("fma")) return []
  const avx512 = ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"].every((flag) => flags.has(flag))
  return [...(avx512 ? ["SkylakeX"] : []), vendor === "AuthenticAMD" ? "Zen" : "Haswell"]
}

/** A file's path, size and modification time, to detect changes. */
export const stamp = (path: string): string => {
  if (!existsSync(path)) return `${path} none`
  const { size, mtimeMs } = statSync(path)
  return `${realpathSync(path)} ${size} ${mtimeMs}`
}

/** Everything that determines the kernels and is cheap to read: the processor and the libraries' files. */
export const machineOf = (libtorch: Libtorch | undefined): ReadonlyArray<string> => {
  const found = processor()
  const folder = libtorch?.libDir ?? "/usr/lib/x86_64-linux-gnu"
  const libraries = existsSync(folder) ? readdirSync(folder).filter((name) => /^lib(torch|c10|openblas|blas|mkl)/.test(name)) : []
  return [
    // The name says little on x86; on other architectures it is all there is.
    cpus()[0]?.model ?? "",
    ...(found === undefined ? [] : [found.vendor, found.version, [...found.flags].sort().join(" ")]),
    ...libraries.map((name) => stamp(join(folder, name))),
    stamp("/etc/alternatives/libblas.so.3-x86_64-linux-gnu")
  ]
}

/** Output and exit status of a process that was asked. */
export interface Asked {
  readonly status: number | null
  readonly signal: string | null
  readonly stdout: string
  readonly stderr: string
}

/** Loads the addon in a separate process, multiplies two matrices, and prints which BLAS did it. */
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

/** The core at the end of OpenBLAS's description of itself; empty for another BLAS. */
const coreOf = (blas: string): string => (blas.startsWith("OpenBLAS") ? blas.split(" ").at(-1)! : "")

/**
 * The core to set for this addon on this machine; empty if none. Asks libtorch two or three times, up to a second each, and caches the answer next to the addon, keyed by
 * everything that it depends on, including this module. Throws if a process does not answer: falling back to slow kernels would change the results.
 */
export const chosenCore = (addon: string, machine: ReadonlyArray<string>, here: Processor, asking = ask): string => {
  const parts = [...machine, readFileSync(fileURLToPath(import.meta.url), "utf8")]
  const file = join(dirname(addon), `core-${createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16)}`)
  if (existsSync(file)) return readFileSync(file, "utf8")
  /** undefined: these kernels do not run on this processor or give a wrong product. */
  const answer = (core: string | undefined): string | undefined => {
    const { signal, status, stderr, stdout } = asking(addon, core)
    if (status === 0) return coreOf(stdout)
    if (core !== undefined && (signal === "SIGILL" || status === 3)) return undefined
    const end = signal === null ? `ended with ${status}: ${stderr.trim().split("\n").at(-1)!}` : `was ended by ${signal}`
    throw new Error(
      `Asking libtorch which OpenBLAS kernels it uses on this processor: expected an answer, but the process ${end}. Run this again, or set OPENBLAS_CORETYPE (Haswell for AVX2, SkylakeX for AVX-512).`
    )
  }
  const chosen = missedCores(here, answer(undefined)!).find((core) => answer(core) === core) ?? ""
  try {
    writeFileSync(`${file}.${process.pid}`, chosen)
    renameSync(`${file}.${process.pid}`, file)
  } catch {
    // The cache can't be written: ask again next time.
  }
  return chosen
}

/** Call before the addon is loaded: sets OPENBLAS_CORETYPE if OpenBLAS would misidentify this processor. A non-empty user setting is kept. */
export const chooseKernels = (addon: string, libtorch: Libtorch | undefined): void => {
  const set = process.env["OPENBLAS_CORETYPE"]
  if (set !== undefined && set !== "") return
  // OpenBLAS treats an empty value as the name of an unknown core.
  delete process.env["OPENBLAS_CORETYPE"]
  const here = processor()
  if (here?.flags.has("avx2") !== true) return
  const machine = machineOf(libtorch)
  if (!machine.some((part) => part.includes("openblas"))) return
  const core = chosenCore(addon, machine, here)
  if (core !== "") process.env["OPENBLAS_CORETYPE"] = core
}
