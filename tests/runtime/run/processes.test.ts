/** Runs as separate processes: edits between them, two concurrently, interrupted, killed. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { caravan, removeFolder, type RunDocument, runJson, start, statuses, waitFor } from "../../cli/caravan.ts"
import { edit, fixtureFolder } from "../fixture.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => removeFolder(folder))

const run = (...args: ReadonlyArray<string>) => runJson(folder, "pipeline.ts", ...args)
const plan = (...args: ReadonlyArray<string>) =>
  (
    JSON.parse(caravan(folder, "plan", "pipeline.ts", ...args, "--json").stdout) as {
      nodes: ReadonlyArray<{ id: string; status: string; why: ReadonlyArray<string> }>
    }
  ).nodes

const statOf = (pid: number | string) => readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")
const childrenOf = (pid: number): Array<number> =>
  readdirSync("/proc").flatMap((name) => {
    try {
      return /^\d+$/.test(name) && statOf(name)[1] === String(pid) ? [Number(name)] : []
    } catch {
      return []
    }
  })
const alive = (pid: number) => {
  try {
    return statOf(pid)[0] !== "Z"
  } catch {
    return false
  }
}

/** A run that continues until the stage `wait` runs in its child. */
const untilWaiting = async (...args: ReadonlyArray<string>) => {
  const child = start(folder, "run", "pipeline.ts", "--until", "wait", ...args)
  let stderr = ""
  child.stderr!.on("data", (chunk: Buffer) => (stderr += chunk.toString()))
  const closed = new Promise<number | null>((resolve) => child.on("close", resolve))
  await waitFor(() => stderr.includes("wait: running"))
  await waitFor(() => childrenOf(child.pid!).length > 0)
  return { child, closed, workers: childrenOf(child.pid!), stderr: () => stderr }
}

describe("an edit", () => {
  it("of a helper reruns its stage, and plan names the file; an edit of comments, types, formatting or unused code does not", () => {
    run("--until", "shout")
    edit(folder, "helper.ts", (text) =>
      text
        .replace("/** Loud. */", "// Louder,\n// still the same.")
        .replace("text: string, times: number", "text: string , times : number")
        .replace("`${text}?`", "`${text}??`")
    )
    edit(folder, "stages.ts", (text) => text.replace("/** Takes some time", "/** Takes a while"))
    expect(statuses(run("--until", "shout"))).toMatchObject({ lines: "hit", shout: "hit" })
    edit(folder, "helper.ts", (text) => text.replace('const mark = "!"', 'const mark = "?"'))
    expect(plan().find((node) => node.id === "shout")).toMatchObject({
      status: "run",
      why: [expect.stringMatching(/^code: .*helper\.ts$/)]
    })
    expect(caravan(folder, "why", "pipeline.ts", "counts").stdout).toMatch(
      /^counts would run unless[\s\S]*because of shout: code: .*helper\.ts$/m
    )
    expect(statuses(run("--until", "shout"))).toMatchObject({ lines: "hit", shout: "ran" })
  })
})

describe("several runs", () => {
  it("share one store concurrently: all succeed with the same digests", async () => {
    const documents = await Promise.all(
      Array.from({ length: 3 }, async () => {
        const child = start(folder, "run", "pipeline.ts", "--json", "--set", "steps=4")
        let text = ""
        child.stdout!.on("data", (chunk: Buffer) => (text += chunk.toString()))
        await new Promise((resolve) => child.on("close", resolve))
        return JSON.parse(text) as RunDocument
      })
    )
    expect(documents.map(({ status }) => status)).toEqual(["succeeded", "succeeded", "succeeded"])
    expect(new Set(documents.map(({ outputs }) => JSON.stringify(outputs))).size).toBe(1)
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
  })
})

describe("an interrupted run", () => {
  it("by Ctrl-C exits with 130, without a stack trace or a child, and keeps what is finished; the next continues from there", async () => {
    const { child, closed, workers, stderr } = await untilWaiting("--set", "steps=2000")
    child.kill("SIGINT")
    expect(await closed).toBe(130)
    await waitFor(() => !workers.some(alive))
    expect(stderr()).toMatch(/Stopping\. Finished results are kept/)
    expect(stderr()).not.toMatch(/^\s+at /m)
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
    expect(statuses(run())).toEqual({ lines: "hit", shout: "ran", wait: "ran", counts: "ran" })
  })

  it("by a second Ctrl-C exits immediately", async () => {
    const { child, closed, workers } = await untilWaiting("--set", "wait.die=hang")
    child.kill("SIGINT")
    child.kill("SIGINT")
    expect(await closed).toBe(130)
    await waitFor(() => !workers.some(alive), 5000)
  })

  it("by kill -9 leaves no child behind, even one deep in native code; the next run cleans up and continues", async () => {
    const { child, closed, workers } = await untilWaiting("--set", "wait.die=hang")
    await sleep(1000)
    child.kill("SIGKILL")
    await closed
    await waitFor(() => !workers.some(alive), 5000)
    expect(readdirSync(join(folder, "home/tmp")).length).toBe(1)
    expect(statuses(run())).toMatchObject({ lines: "hit", wait: "ran", counts: "ran" })
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
  })

  it("by kill -9 at any moment ends, when run again, with the digests of an undisturbed run", { timeout: 120_000 }, async () => {
    const whole = run()
    const other = fixtureFolder()
    try {
      for (const moment of [150, 300, 400, 500, 600, 700, 900, 1200]) {
        const child = start(other, "run", "pipeline.ts")
        const closed = new Promise((resolve) => child.on("close", resolve))
        await Promise.race([sleep(moment), closed])
        child.kill("SIGKILL")
        await closed
      }
      const finished = runJson(other, "pipeline.ts")
      expect(Object.fromEntries(finished.nodes.map((node) => [node.id, node.digest]))).toEqual(
        Object.fromEntries(whole.nodes.map((node) => [node.id, node.digest]))
      )
    } finally {
      removeFolder(other)
    }
  })
})
