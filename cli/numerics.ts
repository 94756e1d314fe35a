/**
 * The machine's numerics for cache keys. Asking libtorch means loading it (half a second), so its answer is kept beside the store under
 * everything it can depend on that is cheap to see: the addon, the libraries' files, the processor and the variables they read.
 */
import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs"
import { readFile, rename, writeFile } from "node:fs/promises"
import { cpus } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { addonPath, addonSourceDigest, buildAddon, findLibtorch } from "../engine/native/build.mjs"
import { PipelineError } from "../runtime/errors.ts"
import { makeFolder } from "../runtime/home.ts"
import { Numerics } from "../runtime/numerics.ts"

/** Variables that libtorch and its BLAS choose kernels by. */
const variables = [
  "ATEN_CPU_CAPABILITY",
  "OPENBLAS_CORETYPE",
  "OPENBLAS_L2_SIZE",
  "OPENBLAS_VERBOSE",
  "MKL_ENABLE_INSTRUCTIONS",
  "MKL_CBWR",
  "CUDA_VISIBLE_DEVICES",
  "LD_LIBRARY_PATH",
  "LD_PRELOAD",
  "NVIDIA_TF32_OVERRIDE",
  "CUBLAS_WORKSPACE_CONFIG"
]

const stamp = (path: string): string => {
  if (!existsSync(path)) return `${path} none`
  const { size, mtimeMs } = statSync(path)
  return `${realpathSync(path)} ${size} ${mtimeMs}`
}

/** Digest of what the answer depends on. */
const fingerprint = (device: string, threads: number): string => {
  const libtorch = findLibtorch()
  const folder = libtorch?.libDir ?? "/usr/lib/x86_64-linux-gnu"
  const libraries = existsSync(folder) ? readdirSync(folder).filter((name) => /^lib(torch|c10|openblas|blas|mkl)/.test(name)) : []
  const parts = [
    device,
    threads,
    addonPath(libtorch),
    addonSourceDigest(),
    cpus()[0]?.model,
    ...libraries.map((name) => stamp(join(folder, name))),
    stamp("/etc/alternatives/libblas.so.3-x86_64-linux-gnu"),
    ...variables.map((name) => `${name}=${process.env[name] ?? ""}`)
  ]
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 24)
}

const ask = async (device: string, threads: number): Promise<Record<string, string>> => {
  buildAddon()
  const script = fileURLToPath(import.meta.resolve(import.meta.url.endsWith(".ts") ? "./describe-numerics.ts" : "./describe-numerics.js"))
  const { stdout } = await promisify(execFile)(process.execPath, [script, device, String(threads)], { encoding: "utf8" })
  return { ...(JSON.parse(stdout) as Record<string, string>), addon: addonSourceDigest() }
}

/** The engine's numerics, kept in this home. */
export const engineNumerics = (home: string): Layer.Layer<Numerics> =>
  Layer.succeed(Numerics, {
    describe: (device, threads) =>
      Effect.tryPromise({
        try: async () => {
          const file = join(home, "numerics", `${fingerprint(device, threads)}.json`)
          if (existsSync(file)) {
            try {
              return JSON.parse(await readFile(file, "utf8")) as Record<string, string>
            } catch {
              // Not readable as JSON: asked again below and written anew.
            }
          }
          const answer = await ask(device, threads)
          makeFolder(join(home, "numerics"))
          await writeFile(`${file}.${process.pid}`, JSON.stringify(answer))
          await rename(`${file}.${process.pid}`, file)
          return answer
        },
        catch: (cause) =>
          new PipelineError({ message: `Looking at the tensor engine: ${cause instanceof Error ? cause.message : String(cause)}` })
      })
  })
