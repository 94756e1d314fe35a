/**
 * Which of OpenBLAS's kernels multiply matrices on the CPU. OpenBLAS knows processors by their model number, and takes those of 2004 (Prescott, SSE3) for
 * one that is newer than itself: 0.3.21 of Debian 12 does so for Intel's Emerald Rapids, where they take five times as long as those for AVX-512
 * (docs/performance.md). Here what the processor can do decides in such a case.
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
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

/** The core whose kernels OpenBLAS should take on this processor in place of `core`, which it took by itself; undefined where that is right. */
export const missedCore = ({ flags, vendor }: Processor, core: string): string | undefined => {
  if (!withoutAvx2.has(core)) return undefined
  if (["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"].every((flag) => flags.has(flag))) return "SkylakeX"
  if (!flags.has("avx2") || !flags.has("fma")) return undefined
  return vendor === "AuthenticAMD" ? "Zen" : "Haswell"
}

/** A file as it is now, for telling whether it has changed. */
export const stamp = (path: string): string => {
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
    ...(found === undefined ? ["no /proc/cpuinfo"] : [found.vendor, found.version, [...found.flags].sort().join(" ")]),
    ...libraries.map((name) => stamp(join(folder, name))),
    stamp("/etc/alternatives/libblas.so.3-x86_64-linux-gnu")
  ]
}

/** Loads the addon in a process of its own, multiplies two matrices, and says what BLAS did it; undefined where it ends otherwise. */
const askBlas = (addon: string, core: string | undefined): string | undefined => {
  const script = `
    const addon = require(${JSON.stringify(addon)})
    const ones = addon.fromBytes(new Float32Array(4096).fill(1), [64, 64], 6, "cpu")
    const product = new Float32Array(4096)
    addon.toBytes(addon.call(addon.findOperator("aten::mm", ""), ones, ones), product)
    if (product.every((value) => value === 64)) process.stdout.write(addon.environment().blas)`
  const env = core === undefined ? process.env : { ...process.env, OPENBLAS_CORETYPE: core }
  const answer = spawnSync(process.execPath, ["-e", script], { encoding: "utf8", env })
  return answer.status === 0 ? answer.stdout : undefined
}

/** The core at the end of what OpenBLAS says of itself. */
const coreOf = (blas: string | undefined): string => (blas?.startsWith("OpenBLAS") === true ? blas.split(" ").at(-1)! : "")

/** The core to set for this addon on this machine; empty: none. Asks libtorch twice at most, half a second each, and keeps the answer beside the addon. */
const chosenCore = (addon: string, libtorch: Libtorch | undefined, here: Processor): string => {
  const machine = createHash("sha256")
    .update(JSON.stringify(machineOf(libtorch)))
    .digest("hex")
    .slice(0, 16)
  const file = join(dirname(addon), `core-${machine}`)
  if (existsSync(file)) return readFileSync(file, "utf8")
  const own = coreOf(askBlas(addon, undefined))
  const better = missedCore(here, own) ?? ""
  const core = better !== "" && coreOf(askBlas(addon, better)) === better ? better : ""
  try {
    writeFileSync(`${file}.${process.pid}`, core)
    renameSync(`${file}.${process.pid}`, file)
  } catch {
    // The cache can't be written: asked again next time.
  }
  return core
}

/** Before the addon is loaded: sets OPENBLAS_CORETYPE where OpenBLAS would mistake this processor. A user's own setting stays. */
export const chooseKernels = (addon: string, libtorch: Libtorch | undefined): void => {
  const here = processor()
  if (here === undefined || !here.flags.has("avx2") || process.env["OPENBLAS_CORETYPE"] !== undefined) return
  const core = chosenCore(addon, libtorch, here)
  if (core !== "") process.env["OPENBLAS_CORETYPE"] = core
}
