/**
 * The machine's numerics, for cache keys. Asking libtorch means loading it (half a second), so the answer is cached in a file, keyed by everything that it
 * can depend on and that is cheap to read: the addon, the libraries' files, the processor, the GPUs and the environment variables they read.
 */
import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, globSync, readdirSync, readFileSync } from "node:fs"
import { mkdir, readFile, rename, writeFile } from "node:fs/promises"
import { extname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { chooseKernels, machineOf, stamp } from "./kernels.ts"
import { addonPath, addonSourceDigest, buildAddon, findLibtorch } from "./native/build.mjs"

/** Environment variables by which libtorch and its BLAS choose kernels. */
const variables = [
  "ATEN_CPU_CAPABILITY",
  "OPENBLAS_CORETYPE",
  "OPENBLAS_L2_SIZE",
  "OPENBLAS_VERBOSE",
  "MKL_ENABLE_INSTRUCTIONS",
  "MKL_CBWR",
  "CUDA_VISIBLE_DEVICES",
  "CUDA_DEVICE_ORDER",
  "NVIDIA_VISIBLE_DEVICES",
  "LD_LIBRARY_PATH",
  "LD_PRELOAD",
  "CUBLAS_WORKSPACE_CONFIG"
]

/** Environment variables that override the program's TensorFloat-32 setting. On a GPU they change bits, so they are part of the numerics when set. */
const overrides = ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE"]

/** What this module reads from the machine; tests substitute their own. */
export interface Surroundings {
  /** The folder where NVIDIA's driver publishes its version and a folder for each GPU. */
  readonly nvidia: string
  /** The linker's list of libraries, which changes when another NVRTC is installed. */
  readonly linker: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Asks libtorch in a separate process. */
  readonly ask: (device: string, threads: number) => Promise<Record<string, string>>
}

/** The driver and the GPUs of this machine; undefined if they can't be identified, in which case the answer is not cached. */
export const gpusOf = (root: string): ReadonlyArray<string> | undefined => {
  try {
    const version = readFileSync(join(root, "version"), "utf8").trim()
    const gpus = readdirSync(join(root, "gpus"))
      .sort()
      .map((place) => {
        const told = readFileSync(join(root, "gpus", place, "information"), "utf8")
        const [model, uuid] = ["Model", "GPU UUID"].map((name) => new RegExp(`^${name}:[ \\t]*(.*\\S)`, "m").exec(told)?.[1] ?? "")
        // A GPU that has not been used since the driver was loaded may not have a name yet.
        if (model === "" || model === "Unknown" || uuid === "") throw new Error("unknown")
        return `${place} ${model} ${uuid}`
      })
    return gpus.length === 0 ? undefined : [version, ...gpus]
  } catch {
    return undefined
  }
}

/** The NVRTC libraries beside libtorch, where NVIDIA's wheels install them (openNvrtc in native/gpu.cc). */
const nvrtcBeside = (folder: string | undefined): ReadonlyArray<string> =>
  folder === undefined
    ? []
    : [...globSync(join(folder, "libnvrtc*.so*")), ...globSync(join(folder, "../../nvidia/*/lib/libnvrtc*.so*"))].sort()

/** Digest of everything the answer depends on; undefined if part of it can't be read. */
const fingerprint = (device: string, threads: number, { environment, linker, nvidia }: Surroundings): string | undefined => {
  const gpus = device === "cuda" ? gpusOf(nvidia) : []
  if (gpus === undefined) return undefined
  const libtorch = findLibtorch()
  const compilers = device === "cuda" ? [stamp(linker), ...nvrtcBeside(libtorch?.libDir).map(stamp)] : []
  const parts = [
    device,
    threads,
    addonPath(libtorch),
    addonSourceDigest(),
    ...machineOf(libtorch),
    ...gpus,
    ...compilers,
    ...[...variables, ...overrides].map((name) => `${name}=${environment[name] ?? ""}`)
  ]
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 24)
}

/** The URL of another module of this folder: TypeScript, or the JavaScript built from it. */
const beside = (name: string): string => new URL(`${name}${extname(import.meta.url)}`, import.meta.url).href

/** The module whose `prepare(device, threads)` sets up the engine in a process that runs stages. */
export const prepareModule = beside("prepare")
/** This module: a job on another machine uses it to describe that machine's numerics. */
export const numericsModule = import.meta.url

/** Digest of the engine's native source, which is part of its numerics. */
export const engineVersion = addonSourceDigest

const ask = async (device: string, threads: number): Promise<Record<string, string>> => {
  buildAddon()
  const script = fileURLToPath(beside("describe-numerics"))
  const asking = promisify(execFile)(process.execPath, [script, device, String(threads)], { encoding: "utf8" })
  const { stdout } = await asking.catch((error: Error & { readonly stderr: string }) => {
    // Report what the process printed; the command line means nothing to the user.
    throw new Error(error.stderr.trim() || error.message, { cause: error })
  })
  return { ...(JSON.parse(stdout) as Record<string, string>), addon: addonSourceDigest() }
}

/** The properties of this machine that change the bits of a computation on a device, cached in a file in the folder. Throws if libtorch can't be asked. */
export const numericsOf = async (
  device: string,
  threads: number,
  folder: string,
  others: Partial<Surroundings> = {}
): Promise<Record<string, string>> => {
  const around: Surroundings = { nvidia: "/proc/driver/nvidia", linker: "/etc/ld.so.cache", environment: process.env, ask, ...others }
  const describe = async () => {
    const set = device === "cuda" ? overrides.filter((name) => (around.environment[name] ?? "") !== "") : []
    return { ...(await around.ask(device, threads)), ...Object.fromEntries(set.map((name) => [name, around.environment[name]!])) }
  }
  // Done here rather than in each child, so that the described kernels are the ones that compute.
  chooseKernels(buildAddon(), findLibtorch())
  const print = fingerprint(device, threads, around)
  if (print === undefined) return await describe()
  const file = join(folder, `${print}.json`)
  if (existsSync(file)) {
    try {
      return JSON.parse(await readFile(file, "utf8")) as Record<string, string>
    } catch {
      // Not valid JSON: ask again below and overwrite it.
    }
  }
  const answer = await describe()
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(`${file}.${process.pid}`, JSON.stringify(answer))
    await rename(`${file}.${process.pid}`, file)
  } catch {
    // The store can't be written to: ask again next time.
  }
  return answer
}
