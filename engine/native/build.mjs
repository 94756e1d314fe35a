// Builds each addon once against this machine's libtorch, into a per-user cache. Plain Node 20, no dependencies except the Node-API headers.
import { spawnSync } from "node:child_process"
import { createHash, randomUUID } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism } from "node:os"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { cacheDirectory, findLibtorch } from "./libtorch.mjs"

export { findLibtorch } from "./libtorch.mjs"

const here = dirname(fileURLToPath(import.meta.url))

const filesEndingIn = (...endings) =>
  readdirSync(here)
    .filter((name) => endings.some((ending) => name.endsWith(ending)))
    .sort()

export function addonSourceDigest() {
  const hash = createHash("sha256")
  for (const name of filesEndingIn(".cc", ".h")) {
    const bytes = readFileSync(join(here, name))
    hash.update(`${name}:${bytes.length}:`).update(bytes)
  }
  return hash.digest("hex")
}

/** No -march: machines of several kinds may share the cache, and the performance-critical kernels are libtorch's own. */
const compileFlags = (libtorch) => [
  "-std=c++17",
  "-O3",
  "-fPIC",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-fopenmp-simd",
  "-Wno-psabi",
  `-D_GLIBCXX_USE_CXX11_ABI=${libtorch.cxx11Abi ? 1 : 0}`
]

const linkFlags = (libtorch) => [
  ...(libtorch.libDir === undefined ? [] : [`-L${libtorch.libDir}`, `-Wl,-rpath,${libtorch.libDir}`]),
  // Otherwise the linker would drop the CUDA libraries, which register their operators when loaded.
  "-Wl,--no-as-needed",
  ...["-ltorch", "-ltorch_cpu"],
  ...(libtorch.cuda ? ["-ltorch_cuda", "-lc10_cuda"] : []),
  ...["-lc10", "-ldl"]
]

const includeFlags = (libtorch) => {
  const nodeHeaders = join(dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")), "include")
  // An explicit /usr/include would come before the compiler's own headers.
  return [nodeHeaders, ...libtorch.includeDirs.filter((folder) => folder !== "/usr/include")].flatMap((folder) => ["-I", folder])
}

const requireLibtorch = () => {
  const libtorch = findLibtorch()
  if (libtorch !== undefined) return libtorch
  throw new Error(
    "No libtorch on this machine. Run `npx caravan setup` to install it (on Debian: apt-get install --no-install-recommends libtorch-dev " +
      "libopenblas0-pthread g++), or point LIBTORCH at an unpacked libtorch."
  )
}

/** The path of the addon for this source and this libtorch, built or not. Throws without libtorch. */
export function addonPath(libtorch = requireLibtorch()) {
  const identity = [process.platform, process.arch, addonSourceDigest(), libtorch, compileFlags(libtorch), linkFlags(libtorch)]
  return cachedPath(identity, "addon.node")
}

const cachedPath = (identity, name) => {
  const key = createHash("sha256").update(JSON.stringify(identity)).digest("hex").slice(0, 24)
  return join(cacheDirectory(), "native", key, name)
}

/** Builds the addon unless it exists; returns its path. Concurrent calls may build it twice; the last one's file stays. */
export function buildAddon({ quiet = false } = {}) {
  const libtorch = requireLibtorch()
  const target = addonPath(libtorch)
  const told = quiet
    ? ""
    : `Building the tensor addon against libtorch ${libtorch.version} (${libtorch.source}): about a minute, only once.\n`
  return build(target, { told, libtorch, folder: here, sources: filesEndingIn(".cc"), compile: [], link: [] })
}

/**
 * Builds another addon from `source`, one file, with flags in addition to libtorch's. It is rebuilt when its source, its flags or libtorch change.
 */
export function buildBeside({ name, source, told, compile, link }) {
  const libtorch = requireLibtorch()
  const identity = [name, process.arch, readFileSync(source, "utf8"), libtorch, compileFlags(libtorch), linkFlags(libtorch), compile, link]
  return build(cachedPath(identity, `${name}.node`), {
    told,
    libtorch,
    folder: dirname(source),
    sources: [basename(source)],
    compile,
    link
  })
}

function build(target, { told, libtorch, folder: from, sources, compile: more, link: libraries }) {
  if (existsSync(target)) return target
  process.stderr.write(told)
  const folder = `${target}.${randomUUID()}`
  mkdirSync(folder, { recursive: true })
  try {
    const compiler = findCompiler()
    // A compiler needs up to 1 GB.
    const jobs = Math.max(1, Math.min(sources.length, availableParallelism(), Math.floor(process.availableMemory() / 1e9)))
    const compile = [compiler, ...compileFlags(libtorch), ...includeFlags(libtorch), ...more, "-c"]
    // One file per compiler; the status 255 stops xargs after a failure.
    const together = ["-0", "-n", "1", "-P", String(jobs), "sh", "-c", '"$@" || exit 255', "sh", ...compile]
    const paths = sources.map((name) => join(from, name))
    check(spawnSync("xargs", together, { ...options, cwd: folder, input: paths.join("\0") }), [...compile, ...paths], libtorch)
    const link = ["-shared", ...sources.map((name) => name.replace(/cc$/, "o")), ...linkFlags(libtorch), ...libraries, "-o", "addon.node"]
    check(spawnSync(compiler, link, { ...options, cwd: folder }), [compiler, ...link], libtorch)
    renameSync(join(folder, "addon.node"), target)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  return target
}

const options = { encoding: "utf8", maxBuffer: 1 << 28 }

function findCompiler() {
  const compiler = process.env.CXX || "g++"
  const { error } = spawnSync(compiler, ["--version"])
  if (error === undefined) return compiler
  if (error.code === "ENOENT")
    throw new Error(`No C++ compiler: ${compiler} was not found. Run \`apt-get install g++\`, or set CXX to another compiler.`)
  throw new Error(`The C++ compiler ${compiler} could not be run: ${error.message}`)
}

/** Throws unless the program succeeded; `command` is printed so that the user can run it again. */
function check({ error, signal, status, stderr }, command, libtorch) {
  if (error) throw new Error(`Building an addon: ${error.message}`)
  if (status === 0) return
  const reason =
    signal === null ? stderr.split("\n").slice(0, 30).join("\n") : `It was killed by ${signal}: check that there is enough memory.`
  throw new Error(
    `Building an addon against libtorch ${libtorch.version} (${libtorch.source}) failed. The command was:\n  ${command.join(" ")}\n${reason}`
  )
}
