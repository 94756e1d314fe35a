// Builds the addon of ranks (ranks.cc) when the first group is joined: it needs headers that a machine without several ranks need not have.
import { existsSync, readdirSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { buildBeside, findLibtorch } from "../native/build.mjs"

export const backendOf = (libtorch = findLibtorch()) => (libtorch?.cuda === true ? "nccl" : "gloo")

const holding = (folders, file) => folders.find((folder) => existsSync(join(folder, file)))

/** Folders with the headers of NVIDIA's wheels beside Python's torch, and of a CUDA toolkit. */
const nvidiaFolders = ({ libDir }) => {
  const wheels = join(dirname(dirname(libDir)), "nvidia")
  const beside = existsSync(wheels) ? readdirSync(wheels).map((name) => join(wheels, name, "include")) : []
  return [...beside, "/usr/local/cuda/include", "/usr/include"]
}

/** Where the headers are that this libtorch's group of ranks is built with. */
const headersOf = (libtorch) => {
  if (backendOf(libtorch) === "gloo") return [holding(["/usr/include"], "gloo/config.h")]
  const folders = nvidiaFolders(libtorch)
  return ["nccl.h", "cuda_runtime_api.h"].map((file) => holding(folders, file))
}

export const ranksMissing = (libtorch = findLibtorch()) => {
  if (libtorch === undefined || headersOf(libtorch).every((folder) => folder !== undefined)) return undefined
  if (libtorch.cuda)
    return "the headers of NCCL or CUDA were not found beside torch. Run `pip install torch` with the packages it asks for, or install a CUDA toolkit."
  return libtorch.source === "system"
    ? "Gloo's headers are not there. Run `apt-get install --no-install-recommends libgloo-dev`."
    : `libtorch ${libtorch.version} (${libtorch.source}) comes without Gloo's headers. Use GPUs (--device cuda), or Debian's libtorch: apt-get install libtorch-dev libgloo-dev.`
}

export const buildRanks = () => {
  const libtorch = findLibtorch()
  const missing = ranksMissing(libtorch)
  if (missing !== undefined) throw new Error(`Building the addon that connects ranks: ${missing}`)
  const nccl = backendOf(libtorch) === "nccl"
  const include = [...new Set(libtorch === undefined ? [] : headersOf(libtorch))].filter((folder) => folder !== "/usr/include")
  return buildBeside({
    name: "ranks",
    source: join(dirname(fileURLToPath(import.meta.url)), "ranks.cc"),
    told: "Building the addon that connects ranks: half a minute, once.\n",
    // The headers of c10d's NCCL are C++20.
    compile: [...(nccl ? ["-std=c++20", "-DCARAVAN_NCCL"] : []), ...include.flatMap((folder) => ["-I", folder])],
    link: nccl ? [] : ["-lgloo"]
  })
}
