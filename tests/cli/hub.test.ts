/** Names on the Hugging Face Hub where commands and pipelines accept files and folders, and `caravan export --push`; with a server on loopback as the Hub. */
import { spawn } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { initLlama } from "../../models/llama.ts"
import { smallConfig, smallTokenizer } from "../models/small.ts"
import { FakeHub, goodToken } from "../runtime/hub/server.ts"
import { command, removeFolder, type RunDocument, statuses, workFolder } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

// Many commands, and each needs seconds to start a stage on a busy machine.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })
const folder = workFolder()
const at = (...names: ReadonlyArray<string>) => join(folder, ...names)
const pairs = (seed: number) =>
  Array.from({ length: 5 }, (_, i) => `${JSON.stringify({ prompt: `ab ${i}?`, chosen: `ba é ${seed}${i}`, rejected: "b" })}\n`).join("")
const pipeline = `
import * as Schema from "effect/Schema"
import { fileAt, hyper, importPolicy, importPreferences, Pipeline } from "../../../index.ts"
const params = Schema.Struct({ model: hyper("", "a model"), data: hyper("hf:datasets/me/pairs:train.jsonl", "pairs") })
export default Pipeline.make("hubbed", { params }, ({ data, model }) => ({
  ...(model === "" ? {} : { model: importPolicy({ folder: fileAt(model) }).named("model") }),
  pairs: importPreferences({ file: fileAt(data) }).named("pairs")
}))
`
let server: FakeHub
let modelFiles: Readonly<Record<string, Buffer>>
let before: NodeJS.ProcessEnv
let dataCommit = ""

beforeAll(async () => {
  server = await FakeHub.start()
  mkdirSync(at("made"))
  const tokenizer = smallTokenizer()
  await writeCheckpoint(at("made"), {
    model: initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 64 }), { seed: 1 }),
    tokenizer,
    role: "policy"
  })
  modelFiles = Object.fromEntries(readdirSync(at("made")).map((name) => [name, readFileSync(at("made", name))]))
  writeFileSync(at("pipeline.ts"), pipeline)
  before = { ...process.env }
})
afterAll(async () => {
  process.env = before
  await server.close()
  removeFolder(folder)
})
/** All tests share the store: they differ in their data. */
let seed = 0
beforeEach(() => {
  server.reset()
  rmSync(at("hf"), { recursive: true, force: true })
  Object.assign(process.env, server.environment(at("hf")))
  server.commit("models/me/small", { ...modelFiles, "pytorch_model.bin": "pickles" })
  dataCommit = server.commit("datasets/me/pairs", { "train.jsonl": pairs(++seed), "test.jsonl": pairs(0), "README.md": "#" })
})

const caravan = (...args: ReadonlyArray<string>) => inProcess(folder, ...args)
const json = async <A>(...args: ReadonlyArray<string>): Promise<A> => {
  const { stderr, stdout } = await caravan(...args, "--json")
  if (stdout === "") throw new Error(stderr)
  return JSON.parse(stdout) as A
}
const running = (...args: ReadonlyArray<string>) => json<RunDocument>("run", at("pipeline.ts"), ...args)
const downloads = () =>
  server.seen.filter(({ path }) => /\/resolve\/|\/resolve-cache\//.test(path)).map(({ path }) => path.split("/").at(-1)!.split("?")[0]!)

describe("a pipeline", () => {
  it("uses a model and a data set from the Hub; a plan downloads only the model's config.json, a run what it needs, the next run nothing", async () => {
    const model = ["--set", "model=hf:me/small"]
    const planned = await json<{
      readonly downloads: ReadonlyArray<unknown>
      readonly nodes: ReadonlyArray<{ readonly id: string; readonly status: string; readonly artifactBytes?: number }>
    }>("plan", at("pipeline.ts"), ...model)
    expect(planned.nodes.map(({ id, status }) => [id, status])).toEqual([
      ["model", "run"],
      ["pairs", "run"]
    ])
    // The checkpoint's size is known from the list: its files, except the unneeded ones.
    const bytes = Object.values(modelFiles).reduce((sum, content) => sum + content.length, 0)
    expect(planned.nodes[0]!.artifactBytes).toBe(bytes)
    expect(planned.downloads).toEqual([
      { name: expect.stringMatching(/^hf:me\/small@[0-9a-f]{40}$/), bytes: bytes - modelFiles["config.json"]!.length },
      { name: `hf:datasets/me/pairs@${dataCommit}:train.jsonl`, bytes: Buffer.byteLength(pairs(seed)) }
    ])
    expect(new Set(downloads())).toEqual(new Set(["config.json"]))

    const first = await running(...model)
    expect(first.nodes.flatMap(({ error }) => error ?? [])).toEqual([])
    expect(statuses(first)).toEqual({ model: "ran", pairs: "ran" })
    expect(readFileSync(join(first.outputs.model!.path, "model.safetensors")).equals(modelFiles["model.safetensors"]!)).toBe(true)
    expect(downloads()).not.toContain("pytorch_model.bin")
    expect(downloads()).not.toContain("test.jsonl")

    server.seen.length = 0
    rmSync(at("hf"), { recursive: true })
    const second = await running(...model)
    expect(statuses(second)).toEqual({ model: "hit", pairs: "hit" })
    expect(downloads()).toEqual([])
    expect(second.nodes.map(({ key }) => key)).toEqual(first.nodes.map(({ key }) => key))
    // It is verified with its inputs, which are downloaded again.
    const { status, stdout } = await caravan("verify", at("pipeline.ts"), ...model, "--only", "pairs", "--json")
    expect([status, JSON.parse(stdout)]).toEqual([0, expect.objectContaining({ nodes: [expect.objectContaining({ status: "same" })] })])
    expect(downloads()).toEqual(["train.jsonl", "train.jsonl"])
  })

  it("reruns what a moved branch changes, but not what a commit names; the lineage has the commits, a lock file fixes them", async () => {
    const first = await running()
    expect((await caravan("freeze", at("pipeline.ts"))).status).toBe(0)
    expect(readFileSync(at("pipeline.lock.json"), "utf8")).toContain(`hf:datasets/me/pairs@${dataCommit}:train.jsonl`)
    expect(statuses(await running("--locked"))).toEqual({ pairs: "hit" })

    const files = { "train.jsonl": pairs(++seed), "test.jsonl": pairs(0) }
    server.commit("datasets/me/pairs", files)
    const { status, stderr } = await caravan("run", at("pipeline.ts"), "--locked")
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(/input file:train\.jsonl: content changed .*hf:datasets\/me\/pairs@[0-9a-f]{40}:train\.jsonl\)/)
    ])
    const moved = await running()
    expect(statuses(moved)).toEqual({ pairs: "ran" })
    expect(moved.outputs.pairs!.digest).not.toBe(first.outputs.pairs!.digest)
    const pinned = await running("--set", `data=hf:datasets/me/pairs@${dataCommit}:train.jsonl`)
    expect([statuses(pinned), pinned.outputs.pairs!.digest]).toEqual([{ pairs: "hit" }, first.outputs.pairs!.digest])
    expect((await caravan("lineage", first.outputs.pairs!.digest)).stdout).toContain(`hf:datasets/me/pairs@${dataCommit}:train.jsonl`)
    // Another commit with the same file: the import runs again, with the same result.
    server.commit("datasets/me/pairs", { ...files, "README.md": "# New" })
    const again = await running()
    expect([statuses(again), again.outputs.pairs!.digest]).toEqual([{ pairs: "ran" }, moved.outputs.pairs!.digest])
  })

  it("reports faults before anything runs: a missing repository, revision or file, an invalid name", async () => {
    const refused = async (setting: string) => {
      const { status, stderr } = await caravan("plan", at("pipeline.ts"), "--set", setting)
      expect(status).toBe(2)
      return stderr
    }
    expect(await refused("model=hf:me/none")).toMatch(/Looking up hf:me\/none@main: the repository does not exist/)
    expect(await refused("model=hf:me/small@v9")).toMatch(/no such branch, tag or commit/)
    expect(await refused("data=hf:datasets/me/pairs:tran.jsonl")).toMatch(/Did you mean "train\.jsonl"\?/)
    expect(await refused("data=hf:datasets/me/pairs")).toMatch(/Select one split: hf:datasets\/me\/pairs@main:t/)
    server.seen.length = 0
    expect(await refused("model=hf:gpt2")).toMatch(/"gpt2" has no owner/)
    expect(server.seen).toEqual([])
  })

  it("with a failed download fails the nodes that read it, with the reason, and makes the others", async () => {
    server.faults.set("train.jsonl", (_, response, bytes, headers) => {
      response.writeHead(200, headers).end(Buffer.alloc(bytes.length))
      return true
    })
    const { nodes } = await running("--set", `model=${at("made")}`)
    expect(nodes.map(({ id, status }) => [id, status])).toEqual([
      ["model", "ran"],
      ["pairs", "failed"]
    ])
    expect(nodes[1]!.error).toMatch(/Downloading train\.jsonl of hf:datasets\/me\/pairs: .*expected the digest [0-9a-f]{40}/)
    server.faults.clear()
    expect(statuses(await running())).toEqual({ pairs: "ran" })
  })
})

describe("commands", () => {
  it("accept names too: data inspect, logprobs, and tokenize, without weights", async () => {
    const found = await json<{ readonly shape: string; readonly rows: number }>(
      "data",
      "inspect",
      "hf:datasets/me/pairs:train.jsonl",
      "--tokenizer",
      "hf:me/small"
    )
    expect([found.shape, found.rows]).toEqual(["prompt-chosen-rejected", 5])
    const child = spawn(process.execPath, [command, "tokenize", "hf:me/small"], { cwd: folder, env: { ...process.env, NODE_OPTIONS: "" } })
    child.stdin.end("ab ba\n")
    expect((await child.stdout.toArray()).join("").trim()).toBe(smallTokenizer().encode("ab ba").join(" "))
    expect(downloads()).not.toContain("model.safetensors")
    writeFileSync(at("ids.json"), JSON.stringify([[1, 5, 7, 260, 9]]))
    const [here, there] = [
      await caravan("logprobs", at("made"), "--ids", at("ids.json")),
      await caravan("logprobs", "hf:me/small", "--ids", at("ids.json"))
    ]
    expect([here.status, there.status, there.stdout]).toEqual([0, 0, here.stdout])
  })
})

describe("caravan export --push", () => {
  beforeEach(() => void (process.env["HF_TOKEN"] = goodToken))
  const pushing = (...args: ReadonlyArray<string>) =>
    json<{ readonly folder: string | null; readonly pushed: { readonly url: string; readonly commit: string } }>("export", ...args)

  it("makes a private repository with one commit, containing what would be in the folder; downloaded again it is the same model", async () => {
    server.partSize = 5000
    const { folder: none, pushed } = await pushing(at("made"), "--push", "hf:me/mine")
    expect(none).toBeNull()
    const repo = server.repos.get("models/me/mine")!
    expect([repo.isPrivate, repo.commits.size, pushed.url]).toEqual([true, 2, `${server.endpoint}/me/mine`])
    expect(repo.refs.get("main")).toBe(pushed.commit)
    await pushing(at("made"), "--to", at("exported"))
    const sent = server.files("models/me/mine")
    const written = readdirSync(at("exported"))
    expect([...sent.keys()].sort()).toEqual([".gitattributes", ...written].sort())
    for (const name of written.filter((one) => one !== "README.md"))
      expect(sent.get(name)!.equals(readFileSync(at("exported", name)))).toBe(true)
    expect(sent.get("README.md")!.toString()).toContain("# mine")
    expect(server.parts.size).toBeGreaterThan(0)
    expect(existsSync(at("home/tmp")) ? readdirSync(at("home/tmp")) : []).toEqual([])
    const found = await json<{ readonly rows: number }>("data", "inspect", "hf:datasets/me/pairs:train.jsonl", "--tokenizer", "hf:me/mine")
    expect(found.rows).toBe(5)
  })

  it("can push a model from the Hub like a local one, keeps the requested folder, and deletes the shards of the last version", async () => {
    server.commit(
      "models/me/mine",
      { "model-00001-of-00002.safetensors": "old", "model.safetensors.index.json": "{}", "notes.md": "mine" },
      { isPrivate: true }
    )
    const { folder: kept } = await pushing("hf:me/small", "--to", at("kept"), "--push", "hf:me/mine")
    expect(kept).toBe(at("kept"))
    expect(existsSync(at("kept/model.safetensors"))).toBe(true)
    const names = [...server.files("models/me/mine").keys()]
    expect(names.filter((name) => /safetensors/.test(name))).toEqual(["model.safetensors"])
    expect(names).toContain("notes.md")
  })

  it("of a dataset goes to a data set, publicly on request", async () => {
    const run = await running()
    const { status, stdout } = await caravan("export", run.outputs.pairs!.digest, "--push", "hf:datasets/me/rows", "--public")
    expect([status, stdout]).toEqual([
      0,
      expect.stringMatching(new RegExp(`Pushed to ${server.endpoint}/datasets/me/rows \\(public\\), commit [0-9a-f]{40}\\.`))
    ])
    expect(server.repos.get("datasets/me/rows")!.isPrivate).toBe(false)
    expect([...server.files("datasets/me/rows").keys()].sort()).toEqual([".gitattributes", "README.md", "data.parquet"])
  })

  it("is rejected before anything is written if it is impossible or would reveal too much", async () => {
    const refused = async (...args: ReadonlyArray<string>) => {
      const { status, stderr } = await caravan("export", at("made"), ...args)
      expect(status).toBe(2)
      expect(stderr).not.toContain(goodToken)
      return stderr
    }
    expect(await refused("--push", "me/mine")).toMatch(/expected hf:owner\/name/)
    expect(await refused("--push", "hf:datasets/me/mine")).toMatch(/this is a model\. Use hf:me\/mine\./)
    expect(await refused("--push", "hf:me/mine@v1")).toMatch(/remove the revision and path/)
    expect(await refused("--push", "hf:me/small")).toMatch(/the repository is public\. To push to it anyway, add --public\./)
    server.commit("models/me/closed", { "a.txt": "" }, { isPrivate: true })
    expect(await refused("--push", "hf:me/closed", "--public")).toMatch(/the repository is private, and a push does not change that/)
    expect(await refused("--public", "--to", at("nothing"))).toMatch(/--public has no effect without --push/)
    expect(await refused()).toMatch(/needs --to <folder>, or --push/)
    expect(await refused("--push", "hf:other/mine")).toMatch(
      /Pushing to hf:other\/mine: You don't have the rights .* Check that the token \(HF_TOKEN\) has write access/
    )
    process.env["HF_TOKEN"] = "hf_wrong"
    expect(await refused("--push", "hf:me/mine")).toMatch(/does not accept the token/)
    process.env["HF_TOKEN"] = ""
    expect(await refused("--push", "hf:me/mine")).toMatch(/a token with write access is needed\. Set HF_TOKEN/)
    expect(server.repos.has("models/me/mine")).toBe(false)
  })

  it("that is interrupted leaves nothing visible, except the requested folder", async () => {
    server.instead = (request, response) => {
      if (request.url?.startsWith("/upload/") !== true) return false
      response.writeHead(500).end("no room")
      return true
    }
    const { status, stderr } = await caravan("export", at("made"), "--to", at("left"), "--push", "hf:me/mine")
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/Pushing to hf:me\/mine: .*The repository is unchanged\. Push again.* The folder .*left is written\./)
    ])
    expect([...server.files("models/me/mine").keys()]).toEqual([".gitattributes"])
    expect(existsSync(at("left/model.safetensors"))).toBe(true)
    server.instead = () => false
    await pushing(at("left"), "--push", "hf:me/mine")
    expect([...server.files("models/me/mine").keys()]).toContain("model.safetensors")
  })
})
