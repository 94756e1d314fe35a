// Builds the addon of ranks (ranks.cc) when the first group is joined: it needs headers that a machine without several ranks need not have.
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { buildBeside, findLibtorch } from "../native/build.mjs"

export const backendOf = (libtorch = findLibtorch()) => (libtorch?.cuda === true ? "nccl" : "gloo")

/** Folders with the headers of NVIDIA's wheels beside Python's torch, and of a CUDA toolkit. */
const nvidiaFolders = ({ libDir }) => {
  const wheels = join(dirname(dirname(libDir)), "nvidia")
  const beside = existsSync(wheels) ? readdirSync(wheels).map((name) => join(wheels, name, "include")) : []
  return [...beside, "/usr/local/cuda/include", "/usr/include"].filter((folder) => existsSync(folder))
}

/** What c10d's headers ask for. Those of CUDA come from one folder where there is one with all: two versions need not go together. */
const cudaHeaders = ["cuda_runtime.h", "crt/host_config.h", "nv/target", "cublas_v2.h", "cusparse.h", "cusolverDn.h"]

/** The folders to look for headers in, and those headers that are in none. */
const headersOf = (libtorch) => {
  const has = (folder) => (file) => existsSync(join(folder, file))
  const missingFrom = (folders, files) => files.filter((file) => !folders.some((folder) => has(folder)(file)))
  if (backendOf(libtorch) === "gloo") return { folders: [], missing: missingFrom(["/usr/include"], ["gloo/config.h"]) }
  const all = nvidiaFolders(libtorch)
  const whole = all.find((folder) => cudaHeaders.every(has(folder)))
  const folders = whole === undefined ? all : [whole, ...all.filter((folder) => has(folder)("nccl.h")).slice(0, 1)]
  return { folders, missing: missingFrom(folders, [...cudaHeaders, "nccl.h"]) }
}

export const ranksMissing = (libtorch = findLibtorch()) => {
  const missing = libtorch === undefined ? [] : headersOf(libtorch).missing
  if (missing.length === 0) return undefined
  if (libtorch.cuda)
    return `of NCCL's and CUDA's headers ${missing.join(", ")} were not found beside torch or in /usr/local/cuda/include. Install a CUDA toolkit of torch's version, or the wheels nvidia-nccl, nvidia-cuda-crt and nvidia-cuda-cccl of it.`
  return libtorch.source === "system"
    ? "Gloo's headers are not there. Run `apt-get install --no-install-recommends libgloo-dev`."
    : `libtorch ${libtorch.version} (${libtorch.source}) comes without Gloo's headers. Use GPUs (--device cuda), or Debian's libtorch: apt-get install libtorch-dev libgloo-dev.`
}

const source = join(dirname(fileURLToPath(import.meta.url)), "ranks.cc")
export const sourceDigest = () => createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16)

export const buildRanks = (expected) => {
  if (expected !== undefined && expected !== sourceDigest())
    throw new Error(
      `The source of the addon that connects ranks has the digest ${sourceDigest()}, expected ${expected}: write the new one into engine/ranks.ts.`
    )
  const libtorch = findLibtorch()
  const missing = ranksMissing(libtorch)
  if (missing !== undefined) throw new Error(`Building the addon that connects ranks: ${missing}`)
  const nccl = backendOf(libtorch) === "nccl"
  const include = (libtorch === undefined ? [] : headersOf(libtorch).folders).filter((folder) => folder !== "/usr/include")
  return buildBeside({
    name: "ranks",
    source,
    told: "Building the addon that connects ranks: half a minute, once.\n",
    // The headers of c10d's NCCL are C++20.
    compile: [...(nccl ? ["-std=c++20", "-DCARAVAN_NCCL"] : []), ...include.flatMap((folder) => ["-I", folder])],
    link: nccl ? [] : ["-lgloo"]
  })
}
