// Installs what the addon needs if it is missing: libtorch, a C++ compiler, a fast BLAS. Uses apt-get if allowed, otherwise the official libtorch
// archive. Plain Node 20, no dependencies.
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

/** Missing requirements, as Debian packages. Only Debian's own libtorch uses the system's BLAS. */
export const missingPackages = () => {
  const libtorch = findLibtorch()
  const isSystem = libtorch === undefined || libtorch.source === "system"
  const needsBlas = isSystem && !isFastBlas(systemBlas())
  return [
    // For stages with several ranks on the CPU; other libtorch builds lack Gloo's headers or have NCCL.
    ...(isSystem && !existsSync("/usr/include/gloo/config.h") ? ["libgloo-dev"] : []),
    ...(libtorch === undefined ? ["libtorch-dev"] : []),
    ...(needsBlas ? ["libopenblas0-pthread"] : []),
    ...(hasCompiler() ? [] : ["g++"])
  ]
}

const aptCommand = (packages) => ["apt-get", "install", "--yes", "--no-install-recommends", ...packages]

/** How to call apt-get here: as root, with passwordless sudo, or not at all (undefined). */
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
    // stdout belongs to the command that runs after setup.
    return spawnSync(program, args, { stdio: ["ignore", 2, 2] }).status === 0
  }
  say(`Installing ${packages.join(", ")} with apt-get (libtorch: about a minute and 1.1 GB on disk).`)
  run(["apt-get", "update", "-q"])
  if (!run([...aptCommand(packages), "-q"])) say(`apt-get could not install all of them.`)
}

/** Unpacks the official CPU archive next to its final place in the cache and renames it, so that an interrupted download never looks complete. */
export const fetchArchive = async (url = archiveUrl, target = fetchedLibtorch()) => {
  if (url === archiveUrl && (process.platform !== "linux" || process.arch !== "x64")) {
    throw new Error(
      `There is no official libtorch archive for ${process.platform} ${process.arch}. Install PyTorch (pip install torch), or point LIBTORCH at a libtorch.`
    )
  }
  const unpack = works("unzip", "-v") ? ["unzip", "-q"] : works("python3", "--version") ? ["python3", "-m", "zipfile", "-e"] : undefined
  if (unpack === undefined) throw new Error("Install unzip or python3: one of them is needed to unpack the libtorch archive.")
  say(`Downloading libtorch from ${url} (about 200 MB) into ${target}.`)
  const work = `${target}.${process.pid}`
  mkdirSync(work, { recursive: true })
  try {
    const response = await fetch(url).catch((cause) => {
      throw new Error(
        `Could not download libtorch from ${url}: ${cause.cause?.message ?? cause.message}. Install PyTorch (pip install torch), or point LIBTORCH at an unpacked libtorch.`
      )
    })
    if (!response.ok || response.body === null)
      throw new Error(`Could not download libtorch: ${url} responded with ${response.status} ${response.statusText}.`)
    const zip = join(work, "libtorch.zip")
    await pipeline(Readable.fromWeb(response.body), createWriteStream(zip))
    const [program, ...args] = unpack
    const done = spawnSync(program, program === "unzip" ? [...args, zip, "-d", work] : [...args, zip, work], { stdio: ["ignore", 2, 2] })
    if (done.status !== 0 || !existsSync(join(work, "libtorch/lib"))) throw new Error(`${program} could not unpack a libtorch from ${url}.`)
    mkdirSync(dirname(target), { recursive: true })
    rmSync(target, { recursive: true, force: true })
    renameSync(join(work, "libtorch"), target)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** Ensures that libtorch and a compiler are installed; otherwise throws an error with the command that fixes it. */
export const ensureLibtorch = async () => {
  const wanted = missingPackages()
  if (wanted.length > 0) installPackages(wanted)
  if (findLibtorch() === undefined) await fetchArchive()
  const missing = missingPackages()
  const command = `${process.getuid?.() === 0 ? "" : "sudo "}${aptCommand(missing).join(" ")}`
  if (missing.includes("libtorch-dev"))
    throw new Error(`The downloaded libtorch is not usable: ${fetchedLibtorch()}. Remove that folder, or run: ${command}`)
  if (missing.includes("g++")) throw new Error(`Building the tensor addon needs a C++ compiler, and none was found. Run: ${command}`)
  if (missing.includes("libopenblas0-pthread")) say(`Warning: without OpenBLAS, training is up to 40 times slower. Run: ${command}`)
}
