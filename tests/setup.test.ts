import { spawnSync } from "node:child_process"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { diagnose } from "../cli/commands/doctor.ts"
import { addonPath, buildAddon, findLibtorch } from "../engine/native/build.mjs"
import { fetchArchive } from "../scripts/libtorch.mjs"

const root = fileURLToPath(new URL("..", import.meta.url))
const variables = ["LIBTORCH", "PATH", "XDG_CACHE_HOME", "CXX", "CARAVAN_HOME"] as const
let folder: string
let before: ReadonlyArray<[string, string | undefined]>

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "caravan-setup-"))
  before = variables.map((name) => [name, process.env[name]])
  process.env.XDG_CACHE_HOME = join(folder, "cache")
  delete process.env.LIBTORCH
})
const restore = () => {
  for (const [name, value] of before) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
}
afterEach(() => {
  restore()
  rmSync(folder, { recursive: true, force: true })
})

const write = (path: string, text: string) => {
  mkdirSync(join(path, ".."), { recursive: true })
  writeFileSync(path, text)
}

it("a clone without setup says what to run, instead of naming a missing package", () => {
  for (const name of ["cli/caravan.js", "scripts/setup.mjs"]) write(join(folder, name), readFileSync(join(root, name), "utf8"))
  const { status, stderr } = spawnSync(process.execPath, [join(folder, "cli/caravan.js"), "runs"], { cwd: folder, encoding: "utf8" })
  expect([status, stderr]).toEqual([2, "This clone is not set up: its packages are missing. Run `node scripts/setup.mjs` first.\n"])
})

/** The parts of an unpacked libtorch that are checked to find it. */
const makeLibtorch = (path: string, [major, minor, patch]: [number, number, number], libraries = ["torch_cpu"]) => {
  write(join(path, "include/ATen/ATen.h"), "")
  const version = `#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH ${patch}\n`
  write(join(path, "include/torch/csrc/api/include/torch/version.h"), version)
  for (const name of libraries) write(join(path, `lib/lib${name}.so`), "")
  return path
}

/** A python3 on the PATH whose torch is in `packages`, and that counts its calls. */
const makePython = (packages: string) => {
  const bin = join(folder, "bin")
  const answer = JSON.stringify([join(packages, "torch/__init__.py"), [packages]])
  write(join(bin, "python3"), `#!/bin/sh\necho asked >> ${folder}/asked\ncat <<'EOF'\n${answer}\nEOF\n`)
  chmodSync(join(bin, "python3"), 0o755)
  process.env.PATH = `${bin}:${process.env.PATH}`
  return () =>
    existsSync(join(folder, "asked"))
      ? spawnSync("wc", ["-l", join(folder, "asked")], { encoding: "utf8" })
          .stdout.trim()
          .split(" ")[0]
      : "0"
}

describe("finding libtorch", () => {
  it("uses the folder in LIBTORCH before any other", () => {
    makePython(makeLibtorch(join(folder, "packages/torch"), [2, 11, 0]))
    process.env.LIBTORCH = makeLibtorch(join(folder, "mine"), [2, 7, 1])
    expect(findLibtorch()).toMatchObject({
      version: "2.7.1",
      source: "LIBTORCH",
      libDir: join(folder, "mine/lib"),
      cuda: false,
      cxx11Abi: true
    })
  })

  it("says what it expected if LIBTORCH's folder does not contain libtorch", () => {
    process.env.LIBTORCH = folder
    expect(() => findLibtorch()).toThrow(`LIBTORCH points to ${folder}, expected include/ATen/ATen.h`)
  })

  it("uses the installed Python's torch before the system's, with CUDA if it has it", () => {
    makeLibtorch(join(folder, "packages/torch"), [2, 11, 0], ["torch_cpu", "torch_cuda"])
    makePython(join(folder, "packages"))
    expect(findLibtorch()).toMatchObject({
      version: "2.11.0",
      source: "python",
      cuda: true,
      includeDirs: [join(folder, "packages/torch/include"), expect.any(String)]
    })
  })

  it("asks Python once, and again when its packages change", () => {
    const packages = join(folder, "packages")
    makeLibtorch(join(packages, "torch"), [2, 11, 0])
    const asked = makePython(packages)
    findLibtorch()
    findLibtorch()
    expect(asked()).toBe("1")
    utimesSync(packages, new Date(), new Date(Date.now() + 5000))
    findLibtorch()
    expect(asked()).toBe("2")
  })

  it("skips a Python's torch that only links to the system's headers", () => {
    mkdirSync(join(folder, "packages/torch/include"), { recursive: true })
    if (existsSync("/usr/include/ATen")) symlinkSync("/usr/include/ATen", join(folder, "packages/torch/include/ATen"))
    makePython(join(folder, "packages"))
    expect(findLibtorch()?.source).not.toBe("python")
  })

  it("detects the old ABI of a wheel from its CMake files", () => {
    process.env.LIBTORCH = makeLibtorch(join(folder, "old"), [2, 1, 0])
    const withNewAbi = addonPath()
    write(join(folder, "old/share/cmake/Torch/TorchConfig.cmake"), `set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")`)
    expect(findLibtorch()?.cxx11Abi).toBe(false)
    expect(addonPath()).not.toBe(withNewAbi)
  })
})

describe("building the addon", () => {
  it("shows the command and the compiler's output if it fails, and leaves nothing behind", () => {
    process.env.LIBTORCH = makeLibtorch(join(folder, "broken"), [2, 11, 0])
    write(join(folder, "broken/include/ATen/ATen.h"), "#include <ATen/no-such-header.h>")
    expect(() => buildAddon({ quiet: true })).toThrow(
      /Building an addon against libtorch 2\.11\.0 \(LIBTORCH\) failed\. The command was:\n {2}g\+\+ -std=c\+\+17 .*\n.*error: ATen\/no-such-header\.h/s
    )
    expect(readdirSync(join(addonPath(), ".."))).toEqual([])
  })

  it("names the command that installs a compiler if there is none", () => {
    process.env.LIBTORCH = makeLibtorch(join(folder, "whole"), [2, 11, 0])
    process.env.CXX = "no-such-compiler"
    expect(() => buildAddon({ quiet: true })).toThrow("no-such-compiler was not found. Run `apt-get install g++`")
  })
})

/** A zip archive of stored files. */
const zip = (files: Record<string, string>) => {
  const crc32 = (bytes: Buffer) => {
    let crc = -1
    for (const byte of bytes) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
    }
    return ~crc >>> 0
  }
  const local: Array<Buffer> = []
  const central: Array<Buffer> = []
  let offset = 0
  for (const [path, text] of Object.entries(files)) {
    const [name, bytes] = [Buffer.from(path), Buffer.from(text)]
    // Version, flags, method, time and date; checksum and sizes; lengths of the name and of no extra field.
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20, 0)
    common.writeUInt32LE(crc32(bytes), 10)
    common.writeUInt32LE(bytes.length, 14)
    common.writeUInt32LE(bytes.length, 18)
    common.writeUInt16LE(name.length, 22)
    const entry = Buffer.concat([Buffer.from("PK\x03\x04"), common, name, bytes])
    const tail = Buffer.alloc(14)
    tail.writeUInt32LE(offset, 10)
    central.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00"), common, tail, name]))
    local.push(entry)
    offset += entry.length
  }
  const directory = Buffer.concat(central)
  const end = Buffer.alloc(18)
  end.writeUInt16LE(local.length, 4)
  end.writeUInt16LE(local.length, 6)
  end.writeUInt32LE(directory.length, 8)
  end.writeUInt32LE(offset, 12)
  return Buffer.concat([...local, directory, Buffer.from("PK\x05\x06"), end])
}

const serve = async (status: number, body: Buffer, use: (url: string) => Promise<void>) => {
  const server = createServer((_, response) => response.writeHead(status).end(body))
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}/libtorch.zip`)
  } finally {
    server.close()
  }
}

/** Setup reports if neither is installed; CI's machines have one. */
const canUnpack = ["unzip", "python3"].some((program) => spawnSync(program, ["-h"]).error === undefined)

describe.skipIf(!canUnpack)("downloading libtorch's archive", () => {
  it("unpacks it to the folder where it is looked up later", async () => {
    const files = { "libtorch/include/ATen/ATen.h": "", "libtorch/lib/libtorch_cpu.so": "library" }
    await serve(200, zip(files), (url) => fetchArchive(url, join(folder, "libtorch")))
    expect(readdirSync(join(folder, "libtorch")).sort()).toEqual(["include", "lib"])
  })

  it("leaves nothing behind, and reports the response, if there is none", async () => {
    await serve(404, Buffer.from("no"), (url) =>
      expect(fetchArchive(url, join(folder, "libtorch"))).rejects.toThrow(`${url} responded with 404`)
    )
    expect(readdirSync(folder)).toEqual([])
  })

  it("says that a truncated archive can't be unpacked", async () => {
    const whole = zip({ "libtorch/lib/libtorch_cpu.so": "library" })
    await serve(200, whole.subarray(0, whole.length - 30), (url) =>
      expect(fetchArchive(url, join(folder, "libtorch"))).rejects.toThrow("could not unpack a libtorch")
    )
    expect(readdirSync(folder)).toEqual([])
  })
})

describe("scripts/setup.mjs", () => {
  const setup = (...args: Array<string>) =>
    spawnSync(process.execPath, [join(root, "scripts/setup.mjs"), ...args], { encoding: "utf8", cwd: folder })

  it("does and prints nothing if nothing is missing, from any folder", () => {
    restore()
    buildAddon({ quiet: true })
    expect(setup("nothing")).toMatchObject({ status: 0, stdout: "", stderr: "" })
  }, 300_000)

  it("rejects an unknown argument, and lists all known ones", () => {
    const { status, stderr } = setup("everything")
    expect([status, stderr]).toEqual([2, expect.stringContaining("Unknown command everything")])
    expect(/\[([^\]]*)\]/.exec(stderr)![1]!.split(" | ").sort()).toEqual(["cluster", "demo", "faults", "nothing", "study", "test"])
  })
})

describe("caravan doctor", () => {
  it("fails without libtorch's addon and a compiler, and says how to fix it", async () => {
    process.env.LIBTORCH = makeLibtorch(join(folder, "whole"), [2, 11, 0])
    process.env.CXX = "no-such-compiler"
    const { ok, found, problems } = await diagnose(folder)
    expect(ok).toBe(false)
    expect(found).toMatchObject({ libtorch: expect.stringContaining("2.11.0, set by LIBTORCH"), addon: "not built", compiler: "none" })
    expect(problems).toContainEqual({ what: expect.stringContaining("the C++ compiler"), fix: "apt-get install g++", essential: true })
  })

  it("names the store given by CARAVAN_HOME", async () => {
    process.env.CARAVAN_HOME = join(folder, "store")
    expect((await diagnose(folder)).found.store).toMatch(`${folder}/store (not created yet), writable`)
  })
})

describe("npm in a clone", () => {
  it("does not warn about packages that need a newer Node, which setup installs", () => {
    writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "x", version: "1.0.0", engines: { node: ">=999" } }))
    // npm passes its settings to the commands that it runs, such as these tests.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)))
    const install = () => {
      const { status, stderr } = spawnSync("npm", ["install", "--dry-run", "--offline"], { cwd: folder, env, encoding: "utf8" })
      expect(status).toBe(0)
      return stderr
    }
    expect(install()).toContain("EBADENGINE")
    writeFileSync(join(folder, ".npmrc"), readFileSync(join(root, ".npmrc")))
    expect(install()).toBe("")
  })
})
