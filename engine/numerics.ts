/**
 * The machine's numerics: for cache keys. Asking libtorch means loading it (half a second), so its answer is kept in a file, under everything it
 * can depend on that is cheap to see: the addon, the libraries' files, the processor, the GPUs and the variables they read.
 */
import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { mkdir, readFile, rename, writeFile } from "node:fs/promises"
import { extname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { chooseKernels, machineOf } from "./kernels.ts"
import { addonPath, addonSourceDigest, buildAddon, findLibtorch } from "./native/build.mjs"

/** Variables that libtorch and its BLAS choose kernels by. */
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

/** Variables that turn TensorFloat-32 on or off whatever the program says: on a GPU they change bits, and are part of the numerics where set. */
const overrides = ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE"]

/** What is looked at, for tests to put something else in its place. */
export interface Surroundings {
  /** Where NVIDIA's driver tells of itself: its version, and a folder for each GPU. */
  readonly nvidia: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Asks libtorch, in a process of its own. */
  readonly ask: (device: string, threads: number) => Promise<Record<string, string>>
}

/** The driver and the GPUs of this machine; undefined where they are not told apart: the answer is not kept then. */
export const gpusOf = (root: string): ReadonlyArray<string> | undefined => {
  try {
    const version = readFileSync(join(root, "version"), "utf8").trim()
    const gpus = readdirSync(join(root, "gpus"))
      .sort()
      .map((place) => {
        const told = readFileSync(join(root, "gpus", place, "information"), "utf8")
        const [model, uuid] = ["Model", "GPU UUID"].map((name) => new RegExp(`^${name}:[ \\t]*(.*\\S)`, "m").exec(told)?.[1] ?? "")
        // A GPU that nobody has used since the driver was loaded may be without a name as yet.
        if (model === "" || model === "Unknown" || uuid === "") throw new Error("unknown")
        return `${place} ${model} ${uuid}`
      })
    return gpus.length === 0 ? undefined : [version, ...gpus]
  } catch {
    return undefined
  }
}

/** Digest of what the answer depends on; undefined when part of that can't be seen. */
const fingerprint = (device: string, threads: number, { nvidia, environment }: Surroundings): string | undefined => {
  const gpus = device === "cuda" ? gpusOf(nvidia) : []
  if (gpus === undefined) return undefined
  const libtorch = findLibtorch()
  const parts = [
    device,
    threads,
    addonPath(libtorch),
    addonSourceDigest(),
    ...machineOf(libtorch),
    ...gpus,
    ...[...variables, ...overrides].map((name) => `${name}=${environment[name] ?? ""}`)
  ]
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 24)
}

/** Another module of this folder, as it is here: TypeScript, or what was built from it. */
const beside = (name: string): string => new URL(`${name}${extname(import.meta.url)}`, import.meta.url).href

/** The module whose `prepare(device, threads)` sets the engine up in a process that runs stages. */
export const prepareModule = beside("prepare")
/** This module: a job on another machine asks it what would change bits there. */
export const numericsModule = import.meta.url

const ask = async (device: string, threads: number): Promise<Record<string, string>> => {
  buildAddon()
  const script = fileURLToPath(beside("describe-numerics"))
  const asking = promisify(execFile)(process.execPath, [script, device, String(threads)], { encoding: "utf8" })
  const { stdout } = await asking.catch((error: Error & { readonly stderr: string }) => {
    // What it said is the reason; the command that was run is none of the user's.
    throw new Error(error.stderr.trim() || error.message, { cause: error })
  })
  return { ...(JSON.parse(stdout) as Record<string, string>), addon: addonSourceDigest() }
}

/** What of this machine changes the bits of a computation on a device; kept as a file of the folder. Throws when libtorch can't be asked. */
export const numericsOf = async (
  device: string,
  threads: number,
  folder: string,
  others: Partial<Surroundings> = {}
): Promise<Record<string, string>> => {
  const around: Surroundings = { nvidia: "/proc/driver/nvidia", environment: process.env, ask, ...others }
  const describe = async () => {
    const set = device === "cuda" ? overrides.filter((name) => (around.environment[name] ?? "") !== "") : []
    return { ...(await around.ask(device, threads)), ...Object.fromEntries(set.map((name) => [name, around.environment[name]!])) }
  }
  // Here rather than in each child: what is described and what computes take the same kernels.
  chooseKernels(buildAddon(), findLibtorch())
  const print = fingerprint(device, threads, around)
  if (print === undefined) return await describe()
  const file = join(folder, `${print}.json`)
  if (existsSync(file)) {
    try {
      return JSON.parse(await readFile(file, "utf8")) as Record<string, string>
    } catch {
      // Not readable as JSON: asked again below and written anew.
    }
  }
  const answer = await describe()
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(`${file}.${process.pid}`, JSON.stringify(answer))
    await rename(`${file}.${process.pid}`, file)
  } catch {
    // A store that can't be written to: it is asked again the next time.
  }
  return answer
}
