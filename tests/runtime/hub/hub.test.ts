/** Resolving and downloading names on the Hub, over HTTP from a server on loopback that behaves like the Hub. */
import { fork, spawnSync } from "node:child_process"
import { once } from "node:events"
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { Hub } from "../../../runtime/hub/hub.ts"
import { hubSettings, type HubSettings } from "../../../runtime/hub/settings.ts"
import { FakeHub, gitDigest, goodToken, sha256 } from "./server.ts"

let server: FakeHub
let home: string
const folder = mkdtempSync(join(tmpdir(), "caravan-hub-"))
beforeAll(async () => {
  server = await FakeHub.start()
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Whether a small disk can be made here. */
const canMount = (() => {
  const place = mkdtempSync(join(folder, "mount-"))
  const isMounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", place]).status === 0
  spawnSync("umount", ["-l", place])
  return isMounted
})()
/** Bytes without repetition. */
const bytes = (length: number, seed = 1): Buffer =>
  Buffer.from(Uint32Array.from({ length: Math.ceil(length / 4) }, (_, i) => Math.imul(i + seed, 2654435761)).buffer).subarray(0, length)
const weights = bytes(600_000)
const modelFiles = {
  "config.json": `{"model_type":"llama"}`,
  "model.safetensors": weights,
  "tokenizer.json": `{"é":1}`,
  "tokenizer_config.json": "{}",
  "chat_template.jinja": "{{ x }}",
  "README.md": "# A model",
  "pytorch_model.bin": "pickles",
  "onnx/model.onnx": "onnx",
  "consolidated.safetensors": "Mistral's own"
}
let main: string
beforeEach(() => {
  home = mkdtempSync(join(folder, "home-"))
  server.reset()
  main = server.commit("models/me/small", modelFiles)
})

const settings = (more: Partial<HubSettings> = {}, environment: Readonly<Record<string, string>> = {}): HubSettings => ({
  ...hubSettings(server.environment(home, environment)),
  waits: [1, 1, 1],
  ...more
})
const hub = (more?: Partial<HubSettings>, environment?: Readonly<Record<string, string>>) => new Hub(settings(more, environment))
const fetched = async (name: string, from = hub()) => {
  const remote = await from.resolve(name)
  await remote.fetch({ onBytes: () => undefined })
  return remote
}
const repository = () => join(home, "hub/models--me--small")
const requests = (host: "hub" | "cdn") => server.seen.filter((one) => one.host === host)
const filesBelow = (path: string): Array<string> =>
  readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((name) => statSync(join(path, name)).isFile())
    .sort()
const failure = async (work: Promise<unknown>): Promise<string> => {
  const cause = await work.then(
    () => undefined,
    (cause: unknown) => cause
  )
  expect(["PipelineError", "StoreError"]).toContain((cause as { readonly _tag?: string } | undefined)?._tag)
  return (cause as Error).message
}

describe("a model on the Hub", () => {
  it("is the files needed to run it: links to contents named by their digests, in Python's layout", async () => {
    const remote = await fetched("hf:me/small")
    expect(filesBelow(remote.path)).toEqual([
      "chat_template.jinja",
      "config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json"
    ])
    expect(readFileSync(join(remote.path, "model.safetensors")).equals(weights)).toBe(true)
    expect(remote.bytes).toBe(
      Object.entries(modelFiles)
        .filter(([name]) => filesBelow(remote.path).includes(name))
        .reduce((sum, [, content]) => sum + Buffer.byteLength(content), 0)
    )
    expect(readFileSync(join(repository(), "refs/main"), "utf8")).toBe(main)
    const snapshot = join(repository(), "snapshots", main)
    expect(readlinkSync(join(snapshot, "model.safetensors"))).toBe(`../../blobs/${sha256(weights)}`)
    expect(readlinkSync(join(snapshot, "config.json"))).toBe(`../../blobs/${gitDigest(Buffer.from(modelFiles["config.json"]))}`)
    expect(requests("hub").filter(({ path }) => /README|\.bin|onnx|consolidated/.test(path))).toEqual([])
  })

  it("has a digest before any file is downloaded, and is not looked up again within a run", async () => {
    const one = hub()
    const remote = await one.resolve("hf:me/small")
    expect(remote.isThere()).toBe(false)
    expect(remote.pinned).toBe(`hf:me/small@${main}`)
    await one.resolve("hf:me/small:config.json")
    expect(requests("hub").map(({ path }) => path)).toEqual([
      "/api/models/me/small/revision/main",
      `/api/models/me/small/tree/${main}?recursive=true`
    ])
    await remote.fetch({ onBytes: () => undefined })
    expect(remote.isThere()).toBe(true)
    server.seen.length = 0
    await (await hub().resolve(`hf:me/small@${main}`)).fetch({ onBytes: () => undefined })
    expect(server.seen).toEqual([])
  })

  it("is only the tokenizer's files if no more is needed", async () => {
    const remote = await hub().resolve("hf:me/small", { wanted: "tokenizer" })
    await remote.fetch({ onBytes: () => undefined })
    expect(filesBelow(remote.path)).toEqual(["chat_template.jinja", "config.json", "tokenizer.json", "tokenizer_config.json"])
    expect(requests("cdn")).toEqual([])
  })

  it("may be in a folder of the repository, on any branch, tag or reference", async () => {
    const commit = server.commit(
      "models/me/small",
      { "sub/config.json": "{}", "sub/model.safetensors": "x", "config.json": "top" },
      { branch: "refs/pr/1" }
    )
    const remote = await fetched("hf:me/small@refs/pr/1:sub")
    expect(remote.pinned).toBe(`hf:me/small@${commit}:sub`)
    expect(filesBelow(remote.path)).toEqual(["config.json", "model.safetensors"])
    expect((await fetched("hf://me/small@refs/pr/1/sub")).digest).toBe(remote.digest)
    expect(readFileSync(join(repository(), "refs/refs/pr/1"), "utf8")).toBe(commit)
  })

  it("without safetensors is rejected, with the files found instead", async () => {
    server.commit("models/me/pickled", { "config.json": "{}", "pytorch_model.bin": "x" })
    expect(await failure(hub().resolve("hf:me/pickled"))).toMatch(/expected weights in safetensors, found pytorch_model\.bin/)
    server.commit("models/me/quantised", { "README.md": "", "model.Q4.gguf": "x" })
    expect(await failure(hub().resolve("hf:me/quantised"))).toMatch(
      /expected a model .*found README\.md, model\.Q4\.gguf\. .*hf:datasets\/me\/quantised/
    )
  })
})

describe("a data set on the Hub", () => {
  const files = {
    "data/train-0.jsonl": "a\n",
    "data/train-1.jsonl": "b\n",
    "data/test-0.jsonl": "c\n",
    "README.md": "#",
    "dataset_infos.json": "{}",
    ".hidden/x.jsonl": "h"
  }
  beforeEach(() => void server.commit("datasets/me/pairs", files))

  it("is its data files, those of a folder, those of a pattern, or one file; pages of the list are combined", async () => {
    server.pageSize = 2
    const { path } = await fetched("hf:datasets/me/pairs:data/train-*")
    expect(path.endsWith("/**")).toBe(true)
    expect(filesBelow(path.slice(0, -3))).toEqual(["data/train-0.jsonl", "data/train-1.jsonl"])
    const one = await fetched("hf://datasets/me/pairs/data/test-0.jsonl")
    expect(readFileSync(one.path, "utf8")).toBe("c\n")
    server.commit("datasets/me/pairs", { "rows/a.jsonl": "a", "README.md": "#", "config.json": "{}" })
    expect(filesBelow((await fetched("hf:datasets/me/pairs")).path)).toEqual(["rows/a.jsonl"])
  })

  it("with several splits is rejected before any download, with a name for one of them", async () => {
    expect(await failure(hub().resolve("hf:datasets/me/pairs"))).toMatch(
      /2 of train, 1 of test.*hf:datasets\/me\/pairs@main:data\/train\*\.jsonl for train|1 of test, 2 of train/
    )
    expect(await failure(hub().resolve("hf:datasets/me/pairs:data/valid.jsonl"))).toMatch(/found none\..*data\/test-0\.jsonl/)
    expect(requests("hub").filter(({ path }) => path.includes("resolve"))).toEqual([])
  })

  it("is exactly what its name refers to, whatever else of the commit Python's tools have downloaded", async () => {
    const commit = server.commit("datasets/me/pairs", { "a.jsonl": "a", "b.txt": "b" })
    const other = join(home, "hub/datasets--me--pairs/snapshots", commit)
    mkdirSync(other, { recursive: true })
    writeFileSync(join(other, "c.jsonl"), "not of this commit")
    expect(filesBelow((await fetched("hf:datasets/me/pairs")).path)).toEqual(["a.jsonl", "b.txt"])
  })
})

describe("the digest of a name", () => {
  it("changes with the commit, the content, and the path in the repository", async () => {
    const before = await hub().resolve("hf:me/small")
    expect((await hub().resolve(`hf:me/small@${main}`)).digest).toBe(before.digest)
    server.commit("models/me/small", { ...modelFiles, "README.md": "# Another" })
    const moved = await hub().resolve("hf:me/small")
    expect(moved.digest).not.toBe(before.digest)
    expect(moved.pinned).not.toBe(before.pinned)
    // The earlier files are still available under their commit.
    expect((await hub().resolve(`hf:me/small@${main}`)).digest).toBe(before.digest)
    // The same file, given as a folder and by itself.
    server.commit("datasets/me/one", { "a.jsonl": "a" })
    const [folder, file] = [await hub().resolve("hf:datasets/me/one"), await hub().resolve("hf:datasets/me/one:a.jsonl")]
    expect(folder.digest).not.toBe(file.digest)
    server.commit("models/me/other", modelFiles)
    expect((await hub().resolve("hf:me/other")).digest).not.toBe(moved.digest)
  })

  it("is the same throughout a run, even if the branch moves meanwhile", async () => {
    const one = hub()
    const before = await one.resolve("hf:me/small")
    server.commit("models/me/small", { "config.json": "{}", "model.safetensors": "new" })
    expect((await one.resolve("hf:me/small")).digest).toBe(before.digest)
  })
})

describe("a download", () => {
  it("that is interrupted continues where it was, and never appears under its name before it is complete", async () => {
    const blob = join(repository(), "blobs", sha256(weights))
    let wasThere = false
    server.faults.set("model.safetensors", (n, response, rest, headers) => {
      if (n === 2) wasThere = existsSync(blob)
      if (n > 2) return false
      response.writeHead(n === 0 ? 200 : 206, {
        ...headers,
        ...(n > 0 && { "content-range": `bytes ${weights.length - rest.length}-${weights.length - 1}/${weights.length}` })
      })
      response.write(rest.subarray(0, 150_000), () => response.destroy())
      return true
    })
    await fetched("hf:me/small")
    expect(wasThere).toBe(false)
    expect(readFileSync(blob).equals(weights)).toBe(true)
    const ranges = requests("cdn").map(({ range }) => range)
    expect(ranges[0]).toBeUndefined()
    expect(ranges.length).toBe(4)
    expect(ranges.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range ?? ""))).toBe(true)
    expect(filesBelow(join(repository(), "blobs")).filter((name) => name.includes("incomplete"))).toEqual([])
  })

  it("that keeps being interrupted fails, and the next run continues from the bytes received", async () => {
    server.faults.set("model.safetensors", (n, response, rest, headers) => {
      if (n > 3) return false
      response.writeHead(n === 0 ? 200 : 206, {
        ...headers,
        ...(n > 0 && { "content-range": `bytes ${weights.length - rest.length}-${weights.length - 1}/${weights.length}` })
      })
      response.write(rest.subarray(0, 1000), () => response.destroy())
      return true
    })
    expect(await failure(fetched("hf:me/small"))).toMatch(
      /Downloading model\.safetensors of hf:me\/small: .*Tried 4 times\. .*the next run resumes it/
    )
    expect(filesBelow(join(repository(), "blobs")).some((name) => name === sha256(weights))).toBe(false)
    server.seen.length = 0
    const remote = await fetched("hf:me/small")
    expect(readFileSync(join(remote.path, "model.safetensors")).equals(weights)).toBe(true)
    expect(requests("cdn")[0]!.range).toMatch(/^bytes=[1-9]\d*-$/)
  })

  it("starts over if the server sends the complete file, or does not have the requested range", async () => {
    const partial = join(repository(), "blobs", `${sha256(weights)}.caravan-incomplete`)
    mkdirSync(join(repository(), "blobs"), { recursive: true })
    writeFileSync(partial, weights.subarray(0, 1000))
    server.faults.set("model.safetensors", (n, response, rest, headers) => {
      if (n === 0) response.writeHead(416).end()
      if (n === 1) response.writeHead(200, { ...headers, "content-length": String(weights.length) }).end(weights)
      return n < 2
    })
    const remote = await fetched("hf:me/small")
    expect(readFileSync(join(remote.path, "model.safetensors")).equals(weights)).toBe(true)
  })

  it("with the wrong digest is repeated once, then rejected; nothing of it stays", async () => {
    server.faults.set("model.safetensors", (_, response, rest, headers) => {
      response.writeHead(200, headers).end(Buffer.alloc(rest.length))
      return true
    })
    expect(await failure(fetched("hf:me/small"))).toMatch(
      new RegExp(`expected the digest ${sha256(weights)}, got ${sha256(Buffer.alloc(weights.length))}`)
    )
    expect(requests("cdn").length).toBe(2)
    expect(filesBelow(join(repository(), "blobs")).filter((name) => name.startsWith(sha256(weights)))).toEqual([])
    home = mkdtempSync(join(folder, "home-"))
    server.faults.set("config.json", (_, response, rest, headers) => {
      response.writeHead(200, headers).end(Buffer.alloc(rest.length))
      return true
    })
    expect(await failure(fetched("hf:me/small:config.json"))).toMatch(/config\.json.*expected the digest [0-9a-f]{40}, got/)
  })

  it("of an interrupted file that has changed since starts over", async () => {
    mkdirSync(join(repository(), "blobs"), { recursive: true })
    writeFileSync(join(repository(), "blobs", `${sha256(weights)}.caravan-incomplete`), Buffer.alloc(5000))
    const remote = await fetched("hf:me/small")
    expect(readFileSync(join(remote.path, "model.safetensors")).equals(weights)).toBe(true)
    expect(requests("cdn").map(({ range }) => range)).toEqual(["bytes=5000-", undefined])
  })

  it("with another length than listed is rejected before a byte is written, and so is one that does not end", async () => {
    server.faults.set("model.safetensors", (_, response) => {
      response.writeHead(200, { "content-length": String(10 ** 15) })
      response.write("x")
      return true
    })
    expect(await failure(fetched("hf:me/small"))).toMatch(/lists 600000 bytes, but the server announces 1000000000000000/)
    expect(statSync(join(repository(), "blobs", `${sha256(weights)}.caravan-incomplete`)).size).toBe(0)
    server.faults.set("model.safetensors", (_, response) => {
      response.writeHead(200)
      response.write(weights)
      response.write("more")
      return true
    })
    expect(await failure(fetched("hf:me/small"))).toMatch(/lists 600000 bytes, but the server sends more/)
  })

  it("for which the disk has no space is not started", async () => {
    const entry = {
      type: "file",
      path: "model.safetensors",
      size: 2 ** 52,
      oid: "0".repeat(40),
      lfs: { oid: "0".repeat(64), size: 2 ** 52 }
    }
    server.instead = (request, response) => {
      if (request.url?.includes("/tree/") !== true) return false
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify([entry]))
      return true
    }
    expect(await failure(fetched("hf:me/small"))).toMatch(
      /Downloading hf:me\/small@main: 4503599627370496 bytes are needed, but the disk of .* has \d+ free\. .*HF_HUB_CACHE/
    )
    expect(requests("hub").filter(({ path }) => path.includes("/resolve/"))).toEqual([])
  })

  it.skipIf(!canMount)("on a disk that fills up meanwhile reports it, and continues when there is space", async () => {
    const disk = mkdtempSync(join(folder, "disk-"))
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=2m", "none", disk]).status).toBe(0)
    try {
      server.faults.set("model.safetensors", (n) => {
        if (n === 0) spawnSync("dd", ["if=/dev/zero", `of=${join(disk, "filler")}`, "bs=4k"])
        return false
      })
      const full = { HF_HUB_CACHE: join(disk, "hub") }
      expect(await failure(fetched("hf:me/small:model.safetensors", hub({}, full)))).toMatch(
        /Downloading model\.safetensors of hf:me\/small to .*ENOSPC.* Free some space, .*HF_HUB_CACHE .*\. The partial download is kept/
      )
      rmSync(join(disk, "filler"))
      const { path } = await fetched("hf:me/small:model.safetensors", hub({}, full))
      expect(readFileSync(path).equals(weights)).toBe(true)
    } finally {
      spawnSync("umount", ["-l", disk])
    }
  })

  it("that stalls is abandoned and repeated", async () => {
    server.faults.set("model.safetensors", (n, response, rest, headers) => {
      if (n > 0) return false
      response.writeHead(200, headers)
      response.write(rest.subarray(0, 1000))
      return true
    })
    // On a busy machine other requests may appear stalled too.
    await fetched("hf:me/small", hub({ patience: 1000, waits: Array.from({ length: 30 }, () => 1) }))
    expect(requests("cdn").length).toBeGreaterThanOrEqual(2)
  })

  it("ends when it is aborted, and the next one continues", async () => {
    const stop = new AbortController()
    server.faults.set("model.safetensors", (n, response, rest, headers) => {
      if (n > 0) return false
      response.writeHead(200, headers)
      response.write(rest.subarray(0, 300_000))
      return true
    })
    const remote = await hub().resolve("hf:me/small")
    let came = 0
    // The reported bytes are on the disk.
    const onBytes = (count: number) => {
      came += count
      if (came > 100_000) stop.abort(new Error("stopped"))
    }
    await expect(remote.fetch({ onBytes, signal: stop.signal })).rejects.toThrow("stopped")
    await fetched("hf:me/small")
    expect(requests("cdn").at(-1)!.range).toMatch(/^bytes=/)
  })

  it("waits for a busy server as long as it says, and gives up on one that stays broken", async () => {
    let busy = 2
    server.instead = (_, response) => {
      if (busy-- <= 0) return false
      response.writeHead(429, { "retry-after": "0.01" }).end()
      return true
    }
    await fetched("hf:me/small")
    server.instead = (_, response) => {
      response.writeHead(503).end("<html>")
      return true
    }
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(
      /Looking up hf:me\/small@main: the server is busy or unavailable \(503\)\. Tried 3 times/
    )
  })

  it("is made by only one of two processes that need it simultaneously", async () => {
    const program = join(folder, "fetch.ts")
    writeFileSync(
      program,
      `import { Hub } from ${JSON.stringify(new URL("../../../runtime/hub/hub.ts", import.meta.url).pathname)}
process.once("message", async () => {
  const remote = await new Hub().resolve("hf:me/small")
  await remote.fetch({ onBytes: () => undefined })
  process.send!(remote.path, () => process.exit(0))
})
process.send!("ready")`
    )
    const env = { ...process.env, ...server.environment(home), NODE_OPTIONS: "" }
    const children = [0, 1].map(() => fork(program, { env, execArgv: ["--no-warnings"] }))
    await Promise.all(children.map((child) => once(child, "message")))
    const paths = children.map((child) => once(child, "message"))
    for (const child of children) child.send("go")
    const [[a], [b]] = (await Promise.all(paths)) as [[string], [string]]
    expect(a).toBe(b)
    expect(readFileSync(join(a, "model.safetensors")).equals(weights)).toBe(true)
    expect(requests("cdn").length).toBe(1)
  })
})

describe("contents in the cache", () => {
  it("downloaded by Python's tools are read once and used; those with a wrong digest are downloaded", async () => {
    const blobs = join(repository(), "blobs")
    mkdirSync(blobs, { recursive: true })
    writeFileSync(join(blobs, sha256(weights)), weights)
    writeFileSync(join(blobs, gitDigest(Buffer.from(modelFiles["config.json"]))), `{"model_type":"LLAMA"}`)
    const remote = await fetched("hf:me/small")
    expect(requests("cdn")).toEqual([])
    expect(readFileSync(join(remote.path, "config.json"), "utf8")).toBe(modelFiles["config.json"])
  })

  it("that were changed or removed since are downloaded again", async () => {
    const { path } = await fetched("hf:me/small")
    const blob = realpathSync(join(path, "model.safetensors"))
    const { atime, mtime } = statSync(blob)
    writeFileSync(blob, Buffer.alloc(weights.length))
    utimesSync(blob, atime, mtime)
    await fetched("hf:me/small")
    expect(readFileSync(join(path, "model.safetensors")).equals(weights)).toBe(true)
    rmSync(blob)
    const again = await hub().resolve("hf:me/small")
    expect(again.isThere()).toBe(false)
    await again.fetch({ onBytes: () => undefined })
    expect(readFileSync(join(path, "model.safetensors")).equals(weights)).toBe(true)
  })

  it("get their links back if somebody changed them", async () => {
    const { path } = await fetched("hf:me/small")
    rmSync(join(path, "config.json"))
    symlinkSync("/etc/hostname", join(path, "config.json"))
    await fetched("hf:me/small")
    expect(readFileSync(join(path, "config.json"), "utf8")).toBe(modelFiles["config.json"])
    expect(lstatSync(join(path, "config.json")).isSymbolicLink()).toBe(true)
  })
})

describe("without a network", () => {
  const offline = { HF_HUB_OFFLINE: "1" }
  it("a branch or commit that was downloaded before is available, without any request", async () => {
    const { digest } = await fetched("hf:me/small")
    server.commit("models/me/small", { "config.json": "moved" })
    server.seen.length = 0
    expect((await fetched("hf:me/small", hub({}, offline))).digest).toBe(digest)
    expect((await fetched(`hf:me/small@${main}`, hub({}, offline))).digest).toBe(digest)
    expect(server.seen).toEqual([])
  })

  it("missing files are named", async () => {
    expect(await failure(hub({}, offline).resolve("hf:me/small"))).toMatch(
      /Looking up hf:me\/small@main: HF_HUB_OFFLINE is set, and .*models--me--small does not contain main\. Run once with a network connection\./
    )
    expect(await failure(hub({}, offline).resolve(`hf:me/small@${main}`))).toMatch(
      /HF_HUB_OFFLINE is set, and .* has no list of this commit's files/
    )
    await hub().resolve("hf:me/small")
    expect(await failure(fetched("hf:me/small", hub({}, offline)))).toMatch(/5 of its 5 files are not in .*, and HF_HUB_OFFLINE is set/)
  })

  it("and without offline mode it fails, and says how to use what is in the cache", async () => {
    await fetched("hf:me/small")
    const nobody = { endpoint: "http://127.0.0.1:9" }
    expect(await failure(hub(nobody).resolve("hf:me/small"))).toMatch(
      new RegExp(`Looking up hf:me/small@main: .*HF_HUB_OFFLINE=1 to use ${main}`)
    )
    await fetched(`hf:me/small@${main}`, hub(nobody))
  })
})

describe("access", () => {
  it("uses the token of the environment or of the file, which no other host gets and no error repeats", async () => {
    server.commit("models/me/secret", modelFiles, { isPrivate: true })
    expect(await failure(hub().resolve("hf:me/secret"))).toMatch(
      /the repository does not exist, or it is private and no token is set \(HF_TOKEN\).*For a dataset use hf:datasets\/me\/secret\./
    )
    const wrong = await failure(hub({}, { HF_TOKEN: "hf_wrong" }).resolve("hf:me/secret"))
    expect(wrong).toMatch(/does not accept the token \(401/)
    expect(wrong).not.toContain("hf_wrong")
    server.seen.length = 0
    await fetched("hf:me/secret", hub({}, { HF_TOKEN: goodToken }))
    expect(new Set(requests("hub").map(({ authorization }) => authorization))).toEqual(new Set([`Bearer ${goodToken}`]))
    expect(new Set(requests("cdn").map(({ authorization }) => authorization))).toEqual(new Set([undefined]))
    writeFileSync(join(home, "token"), `${goodToken}\n`)
    expect((await hub().resolve("hf:me/secret")).bytes).toBeGreaterThan(0)
  })

  it("to a gated or missing repository is refused, and the error says what is missing", async () => {
    server.commit("models/me/gated", modelFiles, { isGated: true })
    expect(await failure(fetched("hf:me/gated"))).toMatch(
      /Downloading .* of hf:me\/gated: the repository is gated \(401: .*set HF_TOKEN to a token of that account/
    )
    await fetched("hf:me/gated", hub({}, { HF_TOKEN: goodToken }))
    expect(await failure(hub().resolve("hf:me/small@v2"))).toMatch(
      /Looking up hf:me\/small@v2: the repository has no such branch, tag or commit/
    )
    expect(await failure(hub().resolve(`hf:me/small@${"0".repeat(40)}`))).toMatch(/no such branch, tag or commit/)
    expect(await failure(hub({}, { HF_TOKEN: goodToken }).resolve("hf:me/none"))).toMatch(
      /the repository does not exist, or it is private and the token has no access \(404/
    )
  })
})

describe("a server's answer", () => {
  const listing = (entries: unknown, headers: Readonly<Record<string, string>> = {}) => {
    server.instead = (request, response) => {
      if (request.url?.includes("/tree/") !== true) return false
      response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(entries))
      return true
    }
  }
  const entry = { type: "file", path: "model.safetensors", size: 3, oid: "a".repeat(40) }
  it("never leads out of the cache", async () => {
    for (const path of ["../evil.json", "/etc/passwd", "a/../../b", "a\\b", "a//b", "a\0b", "."]) {
      listing([{ ...entry, path }])
      expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected paths inside of the repository/)
    }
    listing([{ ...entry, oid: "../../../x" }])
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected a digest of "model\.safetensors"/)
    listing([{ ...entry, size: -1 }])
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected a size/)
    expect(existsSync(join(repository(), ".caravan"))).toBe(false)
  })

  it("is rejected if it makes no sense, and never followed to another server", async () => {
    listing({ no: "list" })
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected a list of files/)
    listing([entry], { link: `<${server.cdn}/next>; rel="next"` })
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/the repository does not exist/)
    expect(requests("hub").at(-1)!.path).toBe("/next")
    expect(requests("cdn")).toEqual([])
    server.instead = (_, response) => (response.writeHead(200).end(`{"sha":"../x"}`), true)
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected a commit hash/)
    server.instead = (_, response) => (response.writeHead(200).end("<html>"), true)
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/expected JSON/)
    server.instead = (request, response) => (response.writeHead(302, { location: request.url ?? "" }).end(), true)
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/redirects endlessly/)
    server.instead = (_, response) => (response.writeHead(302, { location: "file:///etc/passwd" }).end(), true)
    expect(await failure(hub().resolve("hf:me/small"))).toMatch(/which is not an allowed address for files/)
  })
})
