import { chmodSync, copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { caravan, removeFolder, runJson, start, statuses, workFolder } from "../cli/caravan.ts"

const fixtures = new URL("fixtures/", import.meta.url).pathname
let folder: string
beforeEach(() => {
  folder = workFolder()
  for (const name of readdirSync(fixtures)) copyFileSync(join(fixtures, name), join(folder, name))
  writeFileSync(join(folder, "words.txt"), "alpha\nbeta\ngamma\n")
})
afterEach(() => removeFolder(folder))

const edit = (name: string, change: (text: string) => string) => {
  const before = readFileSync(join(folder, name), "utf8")
  const after = change(before)
  expect(after).not.toBe(before)
  writeFileSync(join(folder, name), after)
}
const run = (...args: ReadonlyArray<string>) => runJson(folder, "pipeline.ts", ...args)
const plan = (...args: ReadonlyArray<string>) =>
  (JSON.parse(caravan(folder, "plan", "pipeline.ts", ...args, "--json").stdout) as { nodes: ReadonlyArray<{ id: string; status: string; why: ReadonlyArray<string> }> }).nodes
const all = (status: string) => ({ lines: status, shout: status, wait: status, counts: status })

describe("a run", () => {
  it("makes everything once; again it finds everything, with the same digests", () => {
    expect(plan().map((node) => node.status)).toEqual(["run", "unknown", "unknown", "unknown"])
    const first = run()
    expect(first.status).toBe("succeeded")
    expect(statuses(first)).toEqual(all("ran"))
    expect(JSON.parse(readFileSync(join(first.outputs.counts!.path, "report.json"), "utf8"))).toEqual({ rows: 6, characters: 31 })
    const second = run()
    expect(statuses(second)).toEqual(all("hit"))
    const digests = ({ nodes }: typeof first) => Object.fromEntries(nodes.map((node) => [node.id, node.digest]))
    expect(digests(second)).toEqual(digests(first))
    expect(plan().map((node) => node.status)).toEqual(["hit", "hit", "hit", "hit"])
  })

  it("with one config field changed makes that node and what depends on it, as plan and why said before", () => {
    run()
    const planned = plan("--set", "shout.times=3")
    expect(Object.fromEntries(planned.map((node) => [node.id, node.status]))).toEqual({ lines: "hit", shout: "run", wait: "hit", counts: "unknown" })
    expect(planned.find((node) => node.id === "shout")!.why).toEqual(["config times: 1 -> 3"])
    expect(caravan(folder, "why", "pipeline.ts", "counts", "--set", "times=3").stdout).toMatch(/counts would run unless[\s\S]*because of shout: config times: 1 -> 3/)
    expect(statuses(run("--set", "shout.times=3"))).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
    // And back: the old results are still there.
    expect(statuses(run())).toEqual(all("hit"))
  })

  it("stops rebuilding where an output comes out as before", () => {
    run()
    writeFileSync(join(folder, "words.txt"), "alpha  \n\nbeta\ngamma")
    expect(statuses(run())).toEqual({ lines: "ran", shout: "hit", wait: "hit", counts: "hit" })
  })

  it("does not look at names and times of files, nor at neutral fields", () => {
    run()
    copyFileSync(join(folder, "words.txt"), join(folder, "other.txt"))
    expect(statuses(run("--set", "file=other.txt", "--set", "lines.batch=7", "--jobs", "3"))).toEqual(all("hit"))
  })

  it("makes seeded stages again under another seed, and only those", () => {
    run()
    expect(statuses(run("--seed", "1"))).toEqual({ lines: "hit", shout: "ran", wait: "ran", counts: "hit" })
  })

  it("makes stages again when a helper's code changes, says which file, and not for comments, types, formatting or what is unused", () => {
    run()
    edit("helper.ts", (text) => text.replace("/** Loud. */", "// Louder,\n// still the same.").replace("text: string, times: number", "text: string , times : number").replace('`${text}?`', '`${text}??`'))
    edit("stages.ts", (text) => text.replace('these texts are not for shouting', 'these texts are not for shouting').replace("/** Takes its time", "/** Takes a while"))
    expect(statuses(run())).toEqual(all("hit"))
    edit("helper.ts", (text) => text.replace('const mark = "!"', 'const mark = "?"'))
    expect(plan().find((node) => node.id === "shout")).toMatchObject({ status: "run", why: [expect.stringMatching(/^code: .*helper\.ts$/)] })
    expect(statuses(run())).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
  })

  it("goes on beside a stage that fails, skips what depends on it, and shows the stage's message without a stack", () => {
    const failed = run("--set", "shout.refuse=true")
    expect(failed.status).toBe("failed")
    expect(statuses(failed)).toEqual({ lines: "ran", shout: "failed", wait: "ran", counts: "skipped" })
    expect(failed.nodes.find((node) => node.id === "shout")!.error).toBe("these texts are not for shouting")
    expect(failed.stderr).not.toMatch(/^\s+at /m)
    expect(caravan(folder, "run", "pipeline.ts", "--set", "shout.refuse=true").status).toBe(1)
    expect(statuses(run())).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
  })

  it("turns a crash, a kill and a thrown mistake into a failure that says what happened", () => {
    const error = (die: string) => run("--set", `wait.die=${die}`).nodes.find((node) => node.id === "wait")!
    expect(error("exit")).toMatchObject({ status: "failed", error: expect.stringMatching(/process of stage wait ended with code 3/) })
    expect(error("kill")).toMatchObject({ status: "failed", error: expect.stringMatching(/was killed \(out of memory\?\)/) })
    expect(error("throw")).toMatchObject({ status: "failed", error: expect.stringMatching(/a mistake in the stage \(at .*stages\.ts:\d+\)/) })
  })

  it("refuses an output that is not there or not of its type, and records nothing", () => {
    const failed = run("--set", "wait.empty=true")
    expect(failed.nodes.find((node) => node.id === "wait")).toMatchObject({ status: "failed", error: expect.stringMatching(/wrote something else than a dataset:text\/1.*data\.arrow/) })
    expect(plan("--set", "wait.empty=true").find((node) => node.id === "wait")!.status).toBe("run")
  })

  it("selects nodes by --only, --from, --until and --force", () => {
    expect(statuses(run("--until", "shout"))).toEqual({ lines: "ran", shout: "ran", wait: "skipped", counts: "skipped" })
    expect(statuses(run("--only", "wait"))).toMatchObject({ lines: "hit", wait: "ran", counts: "skipped" })
    const tooEarly = caravan(folder, "run", "pipeline.ts", "--only", "counts", "--set", "times=5")
    expect(tooEarly.status).toBe(2)
    expect(tooEarly.stderr).toMatch(/Node "shout" is needed but not selected/)
    run()
    expect(statuses(run("--force", "shout"))).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "hit" })
    expect(statuses(run("--from", "shout", "--force", "shout", "--force", "counts"))).toMatchObject({ shout: "ran", counts: "ran" })
  })
})

describe("the store", () => {
  it("makes a damaged object again when it is needed, sets the damaged one aside, and ends at the same digest", () => {
    const first = run()
    const lines = first.nodes.find((node) => node.id === "lines")!.digest!
    const file = join(folder, "home/objects", lines.slice(0, 2), lines, "data.arrow")
    chmodSync(file, 0o644)
    const bytes = readFileSync(file)
    bytes[bytes.length >> 1]! ^= 1
    writeFileSync(file, bytes)
    const second = run("--set", "times=2")
    expect(second.stderr).toMatch(/lines: its result is damaged \(data\.arrow has changed\): making it again/)
    expect(statuses(second)).toMatchObject({ lines: "ran", shout: "ran" })
    expect(second.nodes.find((node) => node.id === "lines")!.digest).toBe(lines)
    expect(readdirSync(join(folder, "home/quarantine")).length).toBe(1)
    expect(statuses(run("--set", "times=2"))).toEqual(all("hit"))
  })

  it("makes a truncated or missing object again", () => {
    const first = run()
    const digest = first.nodes.find((node) => node.id === "shout")!.digest!
    const file = join(folder, "home/objects", digest.slice(0, 2), digest, "data.arrow")
    chmodSync(file, 0o644)
    writeFileSync(file, "")
    expect(plan().find((node) => node.id === "shout")).toMatchObject({ status: "run", why: ["its result is gone from the store"] })
    expect(statuses(run())).toMatchObject({ lines: "hit", shout: "ran", wait: "hit" })
  })

  it("is shared by two runs at once: both succeed with the same digests", async () => {
    const finish = () =>
      new Promise<string>((resolve) => {
        const child = start(folder, "run", "pipeline.ts", "--json", "--set", "steps=4")
        let text = ""
        child.stdout!.on("data", (chunk: Buffer) => (text += chunk.toString()))
        child.on("close", () => resolve(text))
      })
    const [a, b] = (await Promise.all([finish(), finish()])).map((text) => JSON.parse(text) as { status: string; outputs: Record<string, { digest: string }> })
    expect([a!.status, b!.status]).toEqual(["succeeded", "succeeded"])
    expect(a!.outputs.counts!.digest).toBe(b!.outputs.counts!.digest)
  })
})

describe("inputs", () => {
  it("that change while they are read fail the stage, and nothing is recorded", () => {
    edit("stages.ts", (text) =>
      text.replace('const text = readFileSync(inputs.file.path, "utf8")', 'const text = readFileSync(inputs.file.path, "utf8")\n    writeFileSync(inputs.file.path, `${text}delta\\n`)').replace("import { readFileSync }", "import { readFileSync, writeFileSync }")
    )
    const failed = run()
    expect(failed.nodes.find((node) => node.id === "lines")).toMatchObject({ status: "failed", error: expect.stringMatching(/words\.txt changed while it was read/) })
    expect(plan().find((node) => node.id === "lines")!.status).toBe("run")
  })
})

describe("interruption", () => {
  const waitFor = async (what: () => boolean, milliseconds = 15_000) => {
    for (const end = Date.now() + milliseconds; !what(); ) {
      if (Date.now() > end) throw new Error("waited too long")
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  const childrenOf = (pid: number): Array<number> =>
    readdirSync("/proc").flatMap((name) => {
      if (!/^\d+$/.test(name)) return []
      try {
        return readFileSync(`/proc/${name}/stat`, "utf8").split(") ")[1]!.split(" ")[1] === String(pid) ? [Number(name)] : []
      } catch {
        return []
      }
    })
  const alive = (pid: number) => {
    try {
      return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]![0] !== "Z"
    } catch {
      return false
    }
  }

  it("by Ctrl-C ends with 130 and keeps what is finished; the next run goes on from there", async () => {
    run("--until", "lines")
    const child = start(folder, "run", "pipeline.ts", "--set", "steps=200")
    let seen = ""
    child.stderr!.on("data", (chunk: Buffer) => (seen += chunk.toString()))
    const closed = new Promise<number | null>((resolve) => child.on("close", resolve))
    await waitFor(() => seen.includes("wait: running"))
    const [worker] = childrenOf(child.pid!)
    child.kill("SIGINT")
    expect(await closed).toBe(130)
    await waitFor(() => !alive(worker!))
    expect(seen).not.toMatch(/^\s+at /m)
    expect(statuses(run())).toEqual({ lines: "hit", shout: "hit", wait: "ran", counts: "ran" })
  })

  it("by kill -9 leaves no child behind, even one deep in native code, and the next run goes on", async () => {
    const child = start(folder, "run", "pipeline.ts", "--set", "wait.die=hang")
    let seen = ""
    child.stderr!.on("data", (chunk: Buffer) => (seen += chunk.toString()))
    await waitFor(() => seen.includes("wait: running"))
    await new Promise((resolve) => setTimeout(resolve, 1500))
    const workers = childrenOf(child.pid!)
    expect(workers.length).toBeGreaterThan(0)
    child.kill("SIGKILL")
    await waitFor(() => workers.every((worker) => !alive(worker)), 5000)
    expect(statuses(run())).toMatchObject({ lines: "hit", shout: "hit", wait: "ran", counts: "ran" })
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
  })
})
