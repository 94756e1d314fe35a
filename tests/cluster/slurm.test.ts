/** Stages as jobs of a real Slurm: the results equal those of a local run, whatever happens to drivers and jobs. Slower tests are in faults.slow.test.ts. */
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { backendOf } from "../../engine/ranks/build.mjs"
import { bringUp, digestsOf, makePlace, type Place, pausing, processes, type Slurm, statusesOf, until } from "./harness.ts"

const found = bringUp()
const why = typeof found === "string" ? ` (skipped: ${found})` : ""
const slurm = found as Slurm
afterAll(() => {
  if (typeof found !== "string") found.down()
})

describe.skipIf(why !== "")(`a run on Slurm${why}`, { timeout: 120_000 }, () => {
  /** The results on this machine. */
  let expected: Record<string, string | null>
  beforeAll(async () => {
    const here = makePlace(slurm.environment, { steps: 40 })
    const { document } = await here.start([]).ended
    expected = digestsOf(document)
    here.remove()
  })

  let place: Place
  beforeEach(() => {
    place = makePlace(slurm.environment, { steps: 40, pause: 100 })
  })
  afterEach(() => {
    place.remove()
  })
  const onSlurm = ["--on", "slurm"]
  const succeeds = async (...flags: ReadonlyArray<string>) => {
    const { code, document, said } = await place.start([...onSlurm, ...flags]).ended
    if (code !== 0) throw new Error(said)
    expect(digestsOf(document)).toEqual(expected)
    return said
  }
  const jobs = () => slurm.command("squeue", "--me", "--states=all", "-h", "-o", "%i %T")

  it("gives the digests of a local run, each stage in a job, and leaves no job behind", async () => {
    place.remove()
    place = makePlace(slurm.environment, { steps: 40, pause: 0 })
    // Polled at the usual interval: answers from before a job was submitted must be ignored.
    place.configure({ slurm: { profiles: { default: { partition: "low", cpus: 1, memory: 500 } } } })
    const said = await succeeds()
    expect(said).not.toMatch(/submitted again/)
    expect(said.match(/job \d+ runs on n\d/g)?.length).toBe(3)
    expect(readdirSync(join(place.home, "jobs"))).toEqual([])
    expect(place.diary().every((line) => / n\d /.test(line))).toBe(true)
    const log = place.caravan("log", "walk-1").stdout
    expect(log).toMatch(/from step 0/)
  })

  it("with a killed driver is continued by the next: no job twice, no step twice", async () => {
    const first = place.start(onSlurm)
    await first.says(/walk-1: job \d+ runs on/)
    await first.says(/walk-2: job \d+ runs on/)
    const before = jobs()
    first.process.kill("SIGKILL")
    await first.ended
    const listed = JSON.parse(place.caravan("jobs", "--json").stdout) as { jobs: Array<{ node: string; state: string }> }
    expect(listed.jobs.map(({ node, state }) => `${node} ${state}`).sort()).toEqual(["walk-1 RUNNING", "walk-2 RUNNING"])
    const said = await succeeds()
    expect(said).toMatch(/walk-1: job \d+ of an earlier run continues \(running\): waiting for it/)
    expect(jobs().split("\n").length).toBe(before.split("\n").length + 1)
    expect(place.diary().length).toBe(80)
  })

  it("with a dead driver while its jobs end uses their results", async () => {
    const first = place.start(onSlurm)
    await first.says(/walk-1: job \d+ runs on/)
    await first.says(/walk-2: job \d+ runs on/)
    first.process.kill("SIGKILL")
    await first.ended
    await until("both jobs are done", () => !/RUNNING|COMPLETING|PENDING/.test(jobs()))
    expect(await succeeds()).toMatch(/walk-1: its job finished in the meantime, on n\d/)
    expect(place.diary().length).toBe(80)
  })

  it("that is interrupted leaves its jobs, or cancels them", async () => {
    const first = place.start([...onSlurm, "--on-interrupt", "leave"])
    await first.says(/walk-1: job \d+ runs on/)
    await first.says(/walk-2: job \d+ runs on/)
    first.process.kill("SIGINT")
    expect((await first.ended).said).toMatch(/its job \d+ continues: the next run finds it/)
    expect(jobs()).toMatch(/RUNNING/)
    const second = place.start([...onSlurm, "--on-interrupt", "cancel"])
    await second.says(/walk-1: job \d+ of an earlier run continues/)
    await second.says(/walk-2: job \d+ of an earlier run continues/)
    await until("a step is done", () => place.diary().length > 0)
    second.process.kill("SIGTERM")
    expect((await second.ended).code).toBe(130)
    await until("no job runs", () => !/RUNNING|COMPLETING|PENDING/.test(jobs()))
    const done = place.diary().length
    await succeeds()
    // Each of both was told to save, and continues after its last step.
    expect(place.diary().length).toBeLessThanOrEqual(82)
    expect(done).toBeGreaterThan(0)
  })

  it("with a killed stage process fails as it does locally, and with --retries resumes from its checkpoint", async () => {
    const run = place.start([...onSlurm, "--retries", "1"])
    await run.says(/walk-1: job \d+ runs on/)
    await until("five steps are done", () => place.diary().filter((line) => line.startsWith("1 ")).length >= 5)
    process.kill(
      Number(
        place
          .diary()
          .find((line) => line.startsWith("1 "))!
          .split(" ")[3]
      ),
      "SIGKILL"
    )
    const { code, document, said } = await run.ended
    expect([code, digestsOf(document)]).toEqual([0, expected])
    expect(said).toMatch(/walk-1: failed; retrying \(1 of 1\): The process of stage walk was killed/)
    expect(place.diary().length).toBeLessThanOrEqual(81)
  })

  it("with a cancelled job fails that node and reports it; the next run resumes from its checkpoint", async () => {
    const run = place.start(onSlurm)
    await run.says(/walk-1: job (\d+) runs on/)
    await until("five steps are done", () => place.diary().filter((line) => line.startsWith("1 ")).length >= 5)
    slurm.command("scancel", /walk-1: job (\d+) runs on/.exec(run.said())![1]!)
    const { code, document } = await run.ended
    expect([code, statusesOf(document)]).toEqual([1, { "walk-1": "failed", "walk-2": "ran", meet: "skipped" }])
    expect(document!.nodes.find(({ id }) => id === "walk-1")!.error).toMatch(
      /job \d+.* was cancelled .*Run again to continue from its last checkpoint/
    )
    const said = await succeeds()
    expect(said).not.toMatch(/walk-2: job/)
    expect(place.diary().length).toBeLessThanOrEqual(81)
  })

  it("with a killed worker continues in another job", async () => {
    const run = place.start(onSlurm)
    await run.says(/walk-1: job (\d+) runs on/)
    const id = /walk-1: job (\d+) runs on/.exec(run.said())![1]!
    await until("five steps are done", () => place.diary().filter((line) => line.startsWith("1 ")).length >= 5)
    for (const pid of processes((environ) => environ.includes(`SLURM_JOB_ID=${id}\0`) && environ.includes(slurm.folder)))
      process.kill(pid, "SIGKILL")
    const { code, document, said } = await run.ended
    expect([code, digestsOf(document)]).toEqual([0, expected])
    expect(said).toMatch(/walk-1: job \d+ on n\d ended \(failed\): submitted again, to continue from its checkpoint after step \d+/)
    expect(place.diary().length).toBeLessThanOrEqual(82)
  })

  it("distributes the shards of a mapped stage to workers: the result does not depend on their number", () => {
    const file = join(place.folder, "rows.txt")
    writeFileSync(file, Array.from({ length: 32 }, (_, i) => `line ${i}\n`).join(""))
    const diary = join(place.folder, "shards")
    const here = makePlace(slurm.environment)
    const alone = digestsOf(here.run("rows.ts", [`file=${file}`], []))
    here.remove()
    expect(digestsOf(place.run("rows.ts", [`file=${file}`, "workers=3", `diary=${diary}`], onSlurm))).toEqual(alone)
    const made = readFileSync(diary, "utf8").trim().split("\n")
    // Eleven shards, each made once, by three jobs; the last has two rows.
    expect(made.length).toBe(11)
    expect(new Set(made.map((line) => line.split(" ")[1])).size).toBe(3)
    expect(readdirSync(join(place.home, "jobs"))).toEqual([])
    appendFileSync(file, "one more\n")
    place.run("rows.ts", [`file=${file}`, "workers=2", `diary=${diary}`], onSlurm)
    expect(readFileSync(diary, "utf8").trim().split("\n").length).toBe(12)
  })

  it.skipIf(backendOf() !== "gloo")("runs the ranks of a stage on two nodes: the result of two ranks here", () => {
    const flags = ["--ranks", "2", "--until", "sums"]
    const here = makePlace(slurm.environment)
    const alone = digestsOf(here.run("nodes.ts", [], flags))
    here.remove()
    place.configure({ slurm: { pollSeconds: 1, profiles: { default: { partition: "low", cpus: 1, memory: 1200, nodes: 2 } } } })
    expect(digestsOf(place.run("nodes.ts", [], [...flags, ...onSlurm]))).toEqual(alone)
  })

  it("reports what Slurm refused and what is available", async () => {
    place.configure({ slurm: { pollSeconds: 1, profiles: { default: { partition: "nope" } } } })
    const { code, document } = await place.start(onSlurm).ended
    expect(code).toBe(1)
    expect(document!.nodes[0]!.error).toMatch(
      /Slurm refused the job of node "walk-1": .*invalid partition.*nope.* Partitions: low \(3 nodes.*gpu:1\), high/i
    )
    place.configure({ slurm: { pollSeconds: 1, profiles: { default: { gpus: 8 } } } })
    await pausing(0)
    expect(existsSync(join(place.home, "objects"))).toBe(true)
  })
})

describe("without Slurm", () => {
  it("a run on it says what is missing", async () => {
    const place = makePlace({ ...process.env, PATH: "/nowhere" })
    const { code, document } = await place.start(["--on", "slurm"]).ended
    expect(code).toBe(1)
    expect(document!.nodes[0]!.error).toMatch(
      /Slurm is not installed here: the command sbatch was not found\. Run where Slurm's commands are/
    )
    place.remove()
  })
})
