// Finds libtorch on this machine. Plain Node 20, no dependencies: setup uses it before anything is installed.
//
// Search order: LIBTORCH (an unpacked libtorch), the installed Python's torch, the system's packages, the archive that setup downloaded.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join } from "node:path"

/** The per-user cache: built addons, a downloaded libtorch, Python's answers. */
export const cacheDirectory = () => join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "caravan")

/** Where setup unpacks the official archive. */
export const fetchedLibtorch = () => join(cacheDirectory(), "libtorch")

const read = (file) => (existsSync(file) ? readFileSync(file, "utf8") : "")

/** The version in the headers, such as "2.11.0"; undefined without headers. */
const headerVersion = (include) => {
  const files = ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"]
  const text = files.map((file) => read(join(include, file))).join("\n")
  const [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"].map(
    (name) => new RegExp(`#define TORCH_VERSION_${name} (\\d+)`).exec(text)?.[1]
  )
  return major === undefined ? undefined : `${major}.${minor}.${patch}`
}

/** Describes a libtorch to build against; undefined if headers or libraries are missing. */
const describe = ({ include, libDir, source, cmake }) => {
  if (!existsSync(join(include, "ATen/ATen.h"))) return undefined
  const version = headerVersion(include)
  if (version === undefined || (libDir !== undefined && !existsSync(join(libDir, "libtorch_cpu.so")))) return undefined
  return {
    version,
    source,
    includeDirs: [include, join(include, "torch/csrc/api/include")],
    libDir,
    cuda: libDir !== undefined && existsSync(join(libDir, "libtorch_cuda.so")),
    // Wheels before 2.6 were built with the old ABI of std::string and declare it in this file.
    cxx11Abi: !read(cmake ?? "").includes("_GLIBCXX_USE_CXX11_ABI=0")
  }
}

/** An unpacked libtorch or a Python torch package: a folder with include/ and lib/. */
const fromFolder = (folder, source) =>
  describe({
    include: join(folder, "include"),
    libDir: join(folder, "lib"),
    source,
    cmake: join(folder, "share/cmake/Torch/TorchConfig.cmake")
  })

const fromLibtorchVariable = () => {
  const folder = process.env.LIBTORCH
  if (!folder) return undefined
  const torch = fromFolder(folder, "LIBTORCH")
  if (torch !== undefined) return torch
  throw new Error(
    `LIBTORCH points to ${folder}, expected include/ATen/ATen.h, torch's version.h and lib/libtorch_cpu.so in it. Point it at an unpacked libtorch, or unset it.`
  )
}

// Debian's python3-torch only links to the system's headers and libraries: it counts as the system's libtorch.
const isSystem = (folder) => existsSync(join(folder, "include/ATen")) && realpathSync(join(folder, "include/ATen")) === "/usr/include/ATen"

const ask = "import importlib.util as u, json, sys; s = u.find_spec('torch'); print(json.dumps([s.origin if s else None, sys.path]))"

/** The torch package of the Pythons on the PATH, found without importing it (which takes seconds), and the folders in which one could appear. */
const askPythons = () => {
  const folders = new Set()
  for (const python of ["python3", "/usr/bin/python3"]) {
    const answer = spawnSync(python, ["-c", ask], { encoding: "utf8" })
    if (answer.status !== 0) continue
    const [origin, path] = JSON.parse(answer.stdout)
    for (const folder of path) if (folder !== "" && existsSync(folder)) folders.add(folder)
    if (origin === null || isSystem(dirname(origin))) continue
    const torch = fromFolder(dirname(origin), "python")
    if (torch !== undefined) return { torch, folders: [...folders, torch.libDir] }
  }
  return { torch: undefined, folders: [...folders] }
}

const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0)

/** Asking two Pythons takes a tenth of a second, so the answer is cached until one of their package folders changes. */
const fromPython = () => {
  const { PATH, PYTHONPATH, PYENV_VERSION, VIRTUAL_ENV } = process.env
  const key = createHash("sha256")
    .update(JSON.stringify([ask, PATH, PYTHONPATH, PYENV_VERSION, VIRTUAL_ENV]))
    .digest("hex")
    .slice(0, 16)
  const file = join(cacheDirectory(), `python-torch-${key}.json`)
  try {
    const known = JSON.parse(readFileSync(file, "utf8"))
    if (Object.entries(known.folders).every(([folder, time]) => modified(folder) === time)) return known.torch
  } catch {
    // No cached answer, or not a readable one: ask.
  }
  const { torch, folders } = askPythons()
  const times = Object.fromEntries(folders.map((folder) => [folder, modified(folder)]))
  try {
    mkdirSync(cacheDirectory(), { recursive: true })
    writeFileSync(`${file}.${process.pid}`, JSON.stringify({ torch, folders: times }))
    renameSync(`${file}.${process.pid}`, file)
  } catch {
    // A cache that can't be written only costs time.
  }
  return torch
}

const fromSystem = () => describe({ include: "/usr/include", libDir: undefined, source: "system" })

const fromArchive = () => fromFolder(fetchedLibtorch(), "archive")

/** The libtorch of this machine, or undefined. Throws if LIBTORCH points to a folder without one. */
export const findLibtorch = () => fromLibtorchVariable() ?? fromPython() ?? fromSystem() ?? fromArchive()

/** The path of the library behind the system's libblas.so.3 (with which Debian's libtorch multiplies matrices), or undefined. */
export const systemBlas = () => {
  for (const ldconfig of ["ldconfig", "/sbin/ldconfig"]) {
    const { status, stdout } = spawnSync(ldconfig, ["-p"], { encoding: "utf8" })
    if (status !== 0) continue
    const path = /libblas\.so\.3 .*=> (\S+)/.exec(stdout)?.[1]
    return path === undefined ? undefined : realpathSync(path)
  }
  return undefined
}

/** Whether a BLAS is tuned for the processor; Debian's reference BLAS is 40 times slower. */
export const isFastBlas = (name) => /openblas|mkl|blis|atlas/i.test(name ?? "")
