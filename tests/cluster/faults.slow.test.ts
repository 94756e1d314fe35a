/** Faults on a cluster, each tried on a real Slurm: `npm run test:cluster`. */
import { spawnSync } from "node:child_process"
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { bringUp, digestsOf, type Driver, makePlace, type Place, pausing, remove, type Slurm, statusesOf, until } from "./harness.ts"

const found = bringUp()
const why = typeof found === "string" ? ` (skipped: ${found})` : ""
const slurm = found as Slurm
afterAll(() => {
  if (typeof found !== "string") found.down()
})

const trains = new URL("../resume/pipeline.ts", import.meta.url).pathname

const profile = { partition: "low", cpus: 1, memory: 500 }
const configOf = (more: object = {}, ofProfile: object = {}) => ({
  slurm: { pollSeconds: 1, profiles: { default: { ...profile, ...ofProfile } }, ...more }
})
const onSlurm = ["--on", "slurm"]
const nodeOf = (driver: Driver, walk: number) => new RegExp(`walk-${walk}: job \\d+ runs on (n\\d)`).exec(driver.said())![1]!
const isIdle = () => slurm.command("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") === "3"

describe.skipIf(why !== "")(`on a cluster${why}`, { timeout: 240_000 }, () => {
  let expected: Record<string, string | null>
  beforeAll(async () => {
    const here = makePlace(slurm.environment, { steps: 100, pause: 0 })
    expected = digestsOf((await here.start([]).ended).document)
    here.remove()
  })
  let place: Place
  beforeEach(async () => {
    place = makePlace(slurm.environment, { steps: 100, pause: 100 })
    await until("all nodes are idle", isIdle, 120)
  })
  afterEach(() => {
    slurm.restore()
    place.remove()
  })
  const begun = async (flags: ReadonlyArray<string> = onSlurm) => {
    const driver = place.start(flags)
    await driver.says(/walk-1: job \d+ runs on/)
    await driver.says(/walk-2: job \d+ runs on/)
    await until("five steps of each are done", () =>
      [1, 2].every((walk) => place.diary().filter((line) => line.startsWith(`${walk} `)).length >= 5)
    )
    return driver
  }
  /** The run succeeds, with the digests of a local run; at most this many steps were repeated. */
  const expectRight = async (driver: Driver, twice: number) => {
    let stuck = ""
    // Before the test's own limit: what it waits for.
    const timer = setTimeout(() => {
      try {
        stuck = ["sinfo -N -o %N,%T,%E", "squeue --states=all -o %i,%j,%T,%r,%N,%S"]
          .map((words) => slurm.command(words.split(" ")[0]!, ...words.split(" ").slice(1)))
          .join("\n")
      } catch (error) {
        stuck = `The controller does not answer: ${String(error)}`
      }
      driver.process.kill("SIGKILL")
    }, 200_000)
    const { code, document, said } = await driver.ended.finally(() => clearTimeout(timer))
    if (code !== 0) throw new Error(`${said}\n${stuck}`)
    expect(digestsOf(document)).toEqual(expected)
    expect(place.diary().length).toBeLessThanOrEqual(200 + twice)
    return said
  }

  it("jobs of a node whose slurmd is killed move to another node", async () => {
    const driver = await begun()
    const node = nodeOf(driver, 1)
    slurm.kill(`slurmd-${node}`)
    const said = await expectRight(driver, 4)
    expect(said).toMatch(
      /walk-1: job \d+, restart 1 runs on n\d|walk-1: job \d+ on n\d ended .*: submitted again, to continue from its checkpoint/
    )
    slurm.script("node", node)
  })

  it("a node is considered dead but is not: the first result, of its job or the other, is used; they are equal", async () => {
    const driver = await begun()
    const node = nodeOf(driver, 1)
    process.kill(Number(readFileSync(join(slurm.folder, `slurmd-${node}.pid`), "utf8")), "SIGKILL")
    await expectRight(driver, 200)
    slurm.script("node", node)
    await until("the node is back", isIdle, 120)
  })

  it("results are used although the controller is killed; the next job waits for it", async () => {
    const driver = await begun()
    slurm.kill("slurmctld")
    await driver.says(/Slurm's controller does not respond/)
    await driver.says(/walk-1: done in[^]*walk-2: done in|walk-2: done in[^]*walk-1: done in/, 120)
    await driver.says(/meet: running/)
    await pausing(3000)
    slurm.script("controller")
    await expectRight(driver, 0)
  })

  it("a driver that starts while the controller is down waits for it, and submits nothing twice", async () => {
    const first = await begun()
    first.process.kill("SIGKILL")
    await first.ended
    slurm.kill("slurmctld")
    const driver = place.start(onSlurm)
    await driver.says(/Slurm's controller does not respond: waiting for it, to find the job that was submitted before/)
    slurm.script("controller")
    await expectRight(driver, 0)
  })

  it("a drained node gets no new jobs, and finishes its current ones", async () => {
    slurm.command("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    const driver = await begun()
    expect([nodeOf(driver, 1), nodeOf(driver, 2)]).not.toContain("n1")
    slurm.command("scontrol", "update", `nodename=${nodeOf(driver, 1)}`, "state=drain", "reason=test")
    const said = await expectRight(driver, 0)
    expect(said).not.toMatch(/restart 1/)
    for (const node of ["n1", nodeOf(driver, 1)]) slurm.command("scontrol", "update", `nodename=${node}`, "state=resume")
  })

  it("a preempted job saves, and resumes from its last step", async () => {
    place.remove()
    place = makePlace(slurm.environment, { steps: 100, pause: 400 })
    const driver = await begun()
    const other = slurm.command("sbatch", "--parsable", "-p", "high", "-N3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3")
    await until("the other job has run", () => /COMPLETED/.test(slurm.command("squeue", "-h", "--states=all", "-j", other, "-o", "%T")), 60)
    const said = await expectRight(driver, 2)
    expect(said).toMatch(/walk-1: job \d+, restart 1 runs on/)
    expect(said).not.toMatch(/submitted again/)
  })

  it("a job at its time limit saves, and another one continues", async () => {
    place.remove()
    // 130 seconds of steps in jobs of one minute.
    place = makePlace(slurm.environment, { steps: 100, pause: 650 })
    place.configure(configOf({}, { minutes: 1, saveSeconds: 15 }))
    const said = await expectRight(await begun(), 6)
    expect(said).toMatch(/walk-1: job \d+ on n\d reached its time limit: submitted again, to continue from its checkpoint after step \d+/)
  })

  it("a stage without a new checkpoint within its time limit fails, and says what it needs", async () => {
    place.remove()
    place = makePlace(slurm.environment, { steps: 1, pause: 200_000 })
    place.configure(configOf({}, { minutes: 1, saveSeconds: 15 }))
    const { code, document } = await place.start([...onSlurm, "--only", "walk-1"]).ended
    expect([code, document!.nodes.find(({ id }) => id === "walk-1")!.error]).toEqual([
      1,
      expect.stringMatching(/reached its time limit \(1 minutes\), and there is no new checkpoint.*"minutes" in the profile "default"/)
    ])
  })

  it("a node without the GPU that it claims is named", () => {
    const { status, stderr } = place.caravan("plan", trains, "--device", "cuda")
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(
        /This machine has no such device: job \d+ determines a node's numerics[^]*on node n\d \(job \d+, profile "default"\): .*CUDA/
      )
    ])
  })

  describe("with its data in a separate folder", () => {
    let folder: string
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), "caravan-shared-"))
      place.configure(configOf({ folder }))
    })
    afterEach(() => {
      spawnSync("umount", ["-l", folder])
      remove(folder)
    })

    it("keeps its databases out of that folder", async () => {
      await expectRight(place.start(onSlurm), 0)
      expect(lstatSync(join(place.home, "objects")).isSymbolicLink()).toBe(true)
      expect(readdirSync(folder, { recursive: true }).filter((name) => /\.db|leases/.test(String(name)))).toEqual([])
      expect(readdirSync(join(folder, "objects")).length).toBeGreaterThan(1)
      expect(place.caravan("verify", "--store").status).toBe(0)
      expect(place.caravan("gc", "--max-size", "0", "--keep", "0", "--yes").status).toBe(0)
      expect(readdirSync(join(folder, "objects"), { recursive: true }).filter((name) => String(name).includes("artifact.json"))).toEqual([])
    })

    it("rejects a second store, and a store that has results elsewhere", async () => {
      await expectRight(place.start(onSlurm), 0)
      const other = makePlace(slurm.environment)
      other.configure(configOf({ folder }))
      const second = await other.start(onSlurm).ended
      expect([second.code, second.said]).toEqual([
        2,
        expect.stringMatching(/Jobs can't be submitted: the folder .* belongs to the store .*home.*Give each store a separate folder/)
      ])
      other.remove()
      const third = makePlace(slurm.environment)
      await third.start([]).ended
      third.configure(configOf({ folder: mkdtempSync(join(folder, "another-")) }))
      const { said } = await third.start([...onSlurm, "--force", "meet"]).ended
      expect(said).toMatch(/has its own results in objects\/.*mv .*objects/)
      third.remove()
    })

    it("reports a driver on another machine", async () => {
      await expectRight(place.start(onSlurm), 0)
      const file = join(folder, "driver.json")
      const driver = JSON.parse(readFileSync(file, "utf8")) as object
      writeFileSync(file, JSON.stringify({ ...driver, host: "login7", space: "elsewhere" }))
      const { said } = await place.start([...onSlurm, "--force", "meet"]).ended
      expect(said).toMatch(/another driver uses .*process \d+ on login7, last active \d+ s ago/)
    })

    it("that is full fails what can't be stored, reports it, and continues once there is space", async ({ skip }) => {
      if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=3m", "none", folder]).status !== 0) return skip("mounting is not allowed here")
      const driver = await begun()
      const { bavail, bsize } = statfsSync(folder)
      const filler = join(folder, "filler")
      try {
        writeFileSync(filler, Buffer.alloc(bavail * bsize))
      } catch {
        // Results that fit are there.
      }
      const { code, document, said } = await driver.ended
      expect(code).toBe(1)
      const errors = document!.nodes.flatMap(({ error }) => error ?? []).join("\n")
      expect(`${errors}\n${said}`).toMatch(/full: free some space|ENOSPC|no space left/i)
      rmSync(filler)
      await expectRight(place.start(onSlurm), 12)
    })

    it("that nodes do not see is reported, with the node and how to check", async ({ skip }) => {
      // The job's first line hides the folder from the rest, as on a node where it is not mounted.
      const hide = `[ -n "\${HIDDEN:-}" ] || HIDDEN=1 exec unshare -m bash -c 'mount -t tmpfs none ${folder} && exec bash "$0"' "$0"`
      if (spawnSync("unshare", ["-m", "true"]).status !== 0) return skip("name spaces are not allowed here")
      place.configure(configOf({ folder }, { setup: hide }))
      const { code, document } = await place.start(onSlurm).ended
      expect(code).toBe(1)
      expect(document!.nodes[0]!.error).toMatch(
        /Its job \d+ on n\d ended .* and wrote nothing to .*Either that node does not see the folder.*srun -w n\d ls/
      )
    })
  })

  describe("with shared results", () => {
    let shared: string
    let filled: string
    beforeAll(async () => {
      filled = mkdtempSync(join(tmpdir(), "caravan-results-"))
      const here = makePlace(slurm.environment, { steps: 100, pause: 0 })
      await here.start([...onSlurm, "--shared", filled]).ended
      here.remove()
    })
    afterAll(() => remove(filled))
    beforeEach(() => {
      shared = mkdtempSync(join(tmpdir(), "caravan-results-"))
      cpSync(filled, shared, { recursive: true })
    })
    afterEach(() => remove(shared))
    const entries = () => readdirSync(join(shared, "ac"), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())

    it("nothing is submitted for existing results", async () => {
      const { document } = await place.start([...onSlurm, "--shared", shared]).ended
      expect([statusesOf(document), digestsOf(document)]).toEqual([{ "walk-1": "fetched", "walk-2": "fetched", meet: "fetched" }, expected])
      expect(readdirSync(join(place.home, "jobs"))).toEqual([])
    })
    it("that disappear meanwhile are skipped", async () => {
      remove(join(shared, "ac"))
      const driver = await begun([...onSlurm, "--shared", shared])
      renameSync(shared, `${shared}-gone`)
      expect(await expectRight(driver, 0)).toMatch(/the shared results in .* can't be (read|written to) \(gone/)
      remove(`${shared}-gone`)
    })
    it("that hang are skipped", async () => {
      for (const { name, parentPath } of entries()) {
        rmSync(join(parentPath, name))
        spawnSync("mkfifo", [join(parentPath, name)])
      }
      place.configure({ ...configOf(), shared: { folder: shared, seconds: 1 } })
      expect(await expectRight(place.start(onSlurm), 0)).toMatch(/can't be read \(slow: no answer within 1 s\)/)
    })
    it("that are wrong are made on Slurm instead", async () => {
      for (const { name, parentPath } of readdirSync(join(shared, "cas"), { recursive: true, withFileTypes: true }))
        if (existsSync(join(parentPath, name)) && lstatSync(join(parentPath, name)).isFile()) writeFileSync(join(parentPath, name), "lies")
      expect(await expectRight(place.start([...onSlurm, "--shared", shared]), 0)).toMatch(
        /its shared result in .* can't be used .* it is computed here/
      )
    })
  })
})
