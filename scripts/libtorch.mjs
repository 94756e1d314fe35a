// Gets what the addon needs and this machine lacks: libtorch, a C++ compiler, a fast BLAS. By apt-get where that is allowed, else libtorch from
// the official archive. Plain Node 20, no dependencies.
import { spawnSync } from "node:child_process"
import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"

import { fetchedLibtorch, findLibtorch, isFastBlas, systemBlas } from "../engine/native/libtorch.mjs"

const archiveVersion = "2.11.0"
const archiveUrl = `https://download.pytorch.org/libtorch/cpu/libtorch-shared-with-deps-${archiveVersion}%2Bcpu.zip`

const say = (line) => process.stderr.write(`${line}\n`)
const works = (command, ...args) => spawnSync(command, args, { stdio: "ignore" }).status === 0
const hasCompiler = () => works(process.env.CXX || "g++", "--version")

/** What is missing, as Debian's packages. Only Debian's own libtorch takes the system's BLAS. */
export const missingPackages = () => {
  const libtorch = findLibtorch()
  const isSystem = libtorch === undefined || libtorch.source === "system"
  const needsBlas = isSystem && !isFastBlas(systemBlas())
  return [
    // For stages that spread over several ranks on the CPU; other libtorchs come without Gloo's headers, or have NCCL.
    ...(isSystem && !existsSync("/usr/include/gloo/config.h") ? ["libgloo-dev"] : []),
    ...(libtorch === undefined ? ["libtorch-dev"] : []),
    ...(needsBlas ? ["libopenblas0-pthread"] : []),
    ...(hasCompiler() ? [] : ["g++"])
  ]
}

const aptCommand = (packages) => ["apt-get", "install", "--yes", "--no-install-recommends", ...packages]

/** How apt-get may be called here: as root, by a sudo that asks for no password, or not at all (undefined). */
const aptPrefix = () => {
  if (!works("apt-get", "--version")) return undefined
  if (process.getuid?.() === 0) return []
  return works("sudo", "-n", "true") ? ["sudo", "-n"] : undefined
}

const installPackages = (packages) => {
  const prefix = aptPrefix()
  if (prefix === undefined) return
  const run = (command) => {
    const [program, ...args] = [...prefix, "env", "DEBIAN_FRONTEND=noninteractive", ...command]
    // Standard output belongs to the command that setup precedes.
    return spawnSync(program, args, { stdio: ["ignore", 2, 2] }).status === 0
  }
  say(`Installing ${packages.join(", ")} with apt-get (libtorch: about a minute and 1.1 GB on disk).`)
  run(["apt-get", "update", "-q"])
  if (!run([...aptCommand(packages), "-q"])) say(`apt-get did not install them all.`)
}

/** Unpacks the official CPU archive beside the cache's final place and renames it: an interrupted fetch leaves nothing that is taken for whole. */
export const fetchArchive = async (url = archiveUrl, target = fetchedLibtorch()) => {
  if (url === archiveUrl && (process.platform !== "linux" || process.arch !== "x64")) {
    throw new Error(
      `There is no official libtorch archive for ${process.platform} ${process.arch}. Install PyTorch (pip install torch), or point LIBTORCH at a libtorch.`
    )
  }
  const unpack = works("unzip", "-v") ? ["unzip", "-q"] : works("python3", "--version") ? ["python3", "-m", "zipfile", "-e"] : undefined
  if (unpack === undefined) throw new Error("To unpack libtorch's archive, install unzip or python3.")
  say(`Fetching libtorch from ${url} (about 200 MB) into ${target}.`)
  const work = `${target}.${process.pid}`
  mkdirSync(work, { recursive: true })
  try {
    const response = await fetch(url).catch((cause) => {
      throw new Error(
        `libtorch could not be fetched from ${url}: ${cause.cause?.message ?? cause.message}. Install PyTorch (pip install torch), or point LIBTORCH at an unpacked libtorch.`
      )
    })
    if (!response.ok || response.body === null)
      throw new Error(`libtorch could not be fetched: ${url} answered ${response.status} ${response.statusText}.`)
    const zip = join(work, "libtorch.zip")
    await pipeline(Readable.fromWeb(response.body), createWriteStream(zip))
    const [program, ...args] = unpack
    const done = spawnSync(program, program === "unzip" ? [...args, zip, "-d", work] : [...args, zip, work], { stdio: ["ignore", 2, 2] })
    if (done.status !== 0 || !existsSync(join(work, "libtorch/lib")))
      throw new Error(`${url} holds no libtorch that ${program} could unpack.`)
    mkdirSync(dirname(target), { recursive: true })
    rmSync(target, { recursive: true, force: true })
    renameSync(join(work, "libtorch"), target)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** Leaves the machine with libtorch and a compiler, or throws with the command that mends it. */
export const ensureLibtorch = async () => {
  const wanted = missingPackages()
  if (wanted.length > 0) installPackages(wanted)
  if (findLibtorch() === undefined) await fetchArchive()
  const missing = missingPackages()
  const command = `${process.getuid?.() === 0 ? "" : "sudo "}${aptCommand(missing).join(" ")}`
  if (missing.includes("libtorch-dev"))
    throw new Error(`libtorch was fetched, and is not usable: ${fetchedLibtorch()}. Remove that folder, or run: ${command}`)
  if (missing.includes("g++"))
    throw new Error(`A C++ compiler is needed to build the tensor addon, and there is none here. Run: ${command}`)
  if (missing.includes("libopenblas0-pthread")) say(`Warning: without OpenBLAS, training is up to 40 times slower. Run: ${command}`)
}
