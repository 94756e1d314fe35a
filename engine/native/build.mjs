// Finds libtorch and builds the addon against it. Plain Node 20, no dependencies: setup runs it before anything is installed.
import { execFileSync, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { homedir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const here = dirname(fileURLToPath(import.meta.url))
const cacheDir = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "caravan")

// ---- finding libtorch ------------------------------------------------------------------------------------------------------------------

const readIf = (path) => (existsSync(path) ? readFileSync(path, "utf8") : "")

/** The version in a folder of headers, "2.11.0"; undefined when there are none. */
const headerVersion = (include) => {
  const text = readIf(join(include, "torch/version.h")) + readIf(join(include, "torch/headeronly/version.h")) + readIf(join(include, "torch/csrc/api/include/torch/version.h"))
  const part = (name) => new RegExp(`#define TORCH_VERSION_${name} (\\d+)`).exec(text)?.[1]
  return part("MAJOR") === undefined ? undefined : `${part("MAJOR")}.${part("MINOR")}.${part("PATCH")}`
}

const describe = (include, libDir, source, cxx11Abi = true) => {
  const api = join(include, "torch/csrc/api/include")
  const version = existsSync(join(include, "ATen/ATen.h")) ? (headerVersion(include) ?? headerVersion(api)) : undefined
  if (version === undefined) return undefined
  const cuda = libDir !== undefined && existsSync(join(libDir, "libtorch_cuda.so"))
  return { version, source, includeDirs: [include, api], libDir, cuda, cxx11Abi }
}

/** An unpacked libtorch, or a Python torch package: include/ and lib/ side by side. */
const fromFolder = (folder, source) => describe(join(folder, "include"), join(folder, "lib"), source)

/** The torch of the Pythons on the PATH, found without importing it (that takes seconds). */
const fromPython = () => {
  for (const python of ["python3", "/usr/bin/python3"]) {
    const found = spawnSync(python, ["-c", "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"], { encoding: "utf8" })
    const origin = found.status === 0 ? found.stdout.trim() : ""
    const torch = origin && fromFolder(dirname(origin), "python")
    if (torch) return torch
  }
  return undefined
}

const fromSystem = () => describe("/usr/include", undefined, "system")

/** Asking Python takes 50 ms, and most processes need no tensors: its answer is kept until the packages' folder changes. */
const cachedPython = () => {
  const file = join(cacheDir, "python-torch.json")
  const path = process.env.PATH
  try {
    const known = JSON.parse(readFileSync(file, "utf8"))
    if (known.path === path && known.torch && existsSync(known.torch.libDir)) return known.torch
  } catch {
    // No answer kept, or not a readable one: ask again.
  }
  const torch = fromPython()
  if (torch !== undefined) {
    mkdirSync(cacheDir, { recursive: true })
    writeFileSync(`${file}.${process.pid}`, JSON.stringify({ path, torch }))
    renameSync(`${file}.${process.pid}`, file)
  }
  return torch
}

export function findLibtorch() {
  const given = process.env.LIBTORCH
  if (given) {
    const torch = fromFolder(given, "LIBTORCH")
    if (torch === undefined) throw new Error(`LIBTORCH names ${given}, which has no include/ATen/ATen.h. Point it at an unpacked libtorch, or unset it.`)
    return torch
  }
  const downloaded = join(cacheDir, "libtorch")
  // The system's headers are looked at before Python where they exist: Debian's Python torch uses the same library, and asking costs a process.
  return fromSystem() ?? cachedPython() ?? (existsSync(downloaded) ? fromFolder(downloaded, "download") : undefined)
}

// ---- building --------------------------------------------------------------------------------------------------------------------------

const sources = () => readdirSync(here).filter((name) => name.endsWith(".cc")).sort()
const headers = () => readdirSync(here).filter((name) => name.endsWith(".h")).sort()

export function addonSourceDigest() {
  const hash = createHash("sha256")
  for (const name of [...sources(), ...headers()]) {
    const bytes = readFileSync(join(here, name))
    hash.update(`${name}:${bytes.length}:`).update(bytes)
  }
  return hash.digest("hex")
}

const flags = (libtorch) => {
  const napi = dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json"))
  return [
    "-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno",
    `-D_GLIBCXX_USE_CXX11_ABI=${libtorch.cxx11Abi ? 1 : 0}`,
    ...["-I", join(napi, "include")],
    ...libtorch.includeDirs.filter((dir) => dir !== "/usr/include").flatMap((dir) => ["-I", dir]),
    ...sources().map((name) => join(here, name)),
    ...(libtorch.libDir === undefined ? [] : [`-L${libtorch.libDir}`, `-Wl,-rpath,${libtorch.libDir}`]),
    "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", ...(libtorch.cuda ? ["-ltorch_cuda", "-lc10_cuda"] : []), "-lc10", "-ldl"
  ]
}

const noLibtorch = () => new Error("No libtorch on this machine. Run `npx caravan setup` (or: apt-get install --no-install-recommends libtorch-dev libopenblas0-pthread), or point LIBTORCH at an unpacked one.")

export function addonPath(libtorch = findLibtorch()) {
  if (libtorch === undefined) throw noLibtorch()
  const key = createHash("sha256").update(JSON.stringify([addonSourceDigest(), libtorch, flags(libtorch).filter((flag) => flag.startsWith("-l") || flag.startsWith("-O"))])).digest("hex").slice(0, 24)
  return join(cacheDir, "native", key, "addon.node")
}

export function buildAddon({ quiet = false } = {}) {
  const libtorch = findLibtorch()
  if (libtorch === undefined) throw noLibtorch()
  const target = addonPath(libtorch)
  if (existsSync(target) && statSync(target).size > 0) return target
  if (!quiet) process.stderr.write(`Building the tensor addon against libtorch ${libtorch.version} (${libtorch.source}); about half a minute, once.\n`)
  mkdirSync(dirname(target), { recursive: true })
  const temporary = `${target}.${process.pid}`
  const args = [...flags(libtorch), "-o", temporary]
  const compiler = process.env.CXX || "g++"
  try {
    execFileSync(compiler, args, { stdio: ["ignore", "ignore", "pipe"], encoding: "utf8", maxBuffer: 1 << 26 })
  } catch (cause) {
    if (cause.code === "ENOENT") throw new Error(`No C++ compiler: ${compiler} was not found. Install one (apt-get install g++), or name one in CXX.`)
    throw new Error(`The tensor addon does not build against libtorch ${libtorch.version} (${libtorch.source}). The command was:\n  ${compiler} ${args.join(" ")}\n${String(cause.stderr).split("\n").slice(0, 30).join("\n")}`)
  }
  renameSync(temporary, target)
  return target
}
