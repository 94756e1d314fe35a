// Builds the addon for ranks (ranks.cc) when the first group is joined: it needs headers that a machine with a single rank need not have.
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

/** The headers that c10d's headers include. CUDA's headers come from one folder if one has all of them: different versions may not be compatible. */
const cudaHeaders = ["cuda_runtime.h", "crt/host_config.h", "nv/target", "cublas_v2.h", "cusparse.h", "cusolverDn.h"]

/** The folders to search for headers, and the headers that are in none of them. */
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
    return `the NCCL or CUDA headers ${missing.join(", ")} were not found next to torch or in /usr/local/cuda/include. Install the CUDA toolkit of torch's CUDA version, or its wheels nvidia-nccl, nvidia-cuda-crt and nvidia-cuda-cccl.`
  return libtorch.source === "system"
    ? "Gloo's headers are missing. Run `apt-get install --no-install-recommends libgloo-dev`."
    : `libtorch ${libtorch.version} (${libtorch.source}) does not include Gloo's headers. Use GPUs (--device cuda), or Debian's libtorch: apt-get install libtorch-dev libgloo-dev.`
}

const source = join(dirname(fileURLToPath(import.meta.url)), "ranks.cc")
export const sourceDigest = () => createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16)

export const buildRanks = (expected) => {
  if (expected !== undefined && expected !== sourceDigest())
    throw new Error(
      `Building the addon that connects ranks: its source has the digest ${sourceDigest()}, expected ${expected}. Write the new digest into engine/ranks.ts.`
    )
  const libtorch = findLibtorch()
  const missing = ranksMissing(libtorch)
  if (missing !== undefined) throw new Error(`Building the addon that connects ranks: ${missing}`)
  const nccl = backendOf(libtorch) === "nccl"
  const include = (libtorch === undefined ? [] : headersOf(libtorch).folders).filter((folder) => folder !== "/usr/include")
  return buildBeside({
    name: "ranks",
    source,
    told: "Building the addon that connects ranks (about half a minute, only once).\n",
    // The headers of c10d's NCCL are C++20.
    compile: [...(nccl ? ["-std=c++20", "-DCARAVAN_NCCL"] : []), ...include.flatMap((folder) => ["-I", folder])],
    link: nccl ? [] : ["-lgloo"]
  })
}
