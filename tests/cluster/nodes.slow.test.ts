/** Ranks on several nodes of a real Slurm: their results equal those of the same number of ranks on this machine; behaviour when a rank, a node or a job ends. */
import { existsSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { backendOf, buildRanks } from "../../engine/ranks/build.mjs"
import { bringUp, digestsOf, type Driver, makePlace, type Place, processes, type Slurm, until } from "./harness.ts"

const found = bringUp()
const why =
  typeof found === "string"
    ? ` (skipped: ${found})`
    : backendOf() === "gloo"
      ? ""
      : " (skipped: ranks on the CPU need Gloo, which this libtorch lacks)"
const slurm = found as Slurm
afterAll(() => {
  if (typeof found !== "string") found.down()
})

const pipeline = new URL("nodes.ts", import.meta.url).pathname
const flags = ["--on", "slurm", "--ranks", "2", "--checkpoint-seconds", "0"]

describe.skipIf(why !== "")(`ranks on two nodes${why}`, { timeout: 240_000 }, () => {
  let expected: Record<string, string | null>
  beforeAll(() => {
    buildRanks()
    const here = makePlace(slurm.environment)
    expected = digestsOf(here.run("nodes.ts", [], ["--ranks", "2"]))
    here.remove()
  }, 300_000)

  let place: Place
  const configure = (more: object = {}) => {
    const profile = { partition: "low", cpus: 1, memory: 1200 }
    place.configure({
      slurm: { pollSeconds: 1, profile: "two", light: "one", profiles: { one: profile, two: { ...profile, nodes: 2, ...more } } }
    })
  }
  beforeEach(async () => {
    place = makePlace(slurm.environment)
    configure()
    await until("all nodes are idle", () => slurm.command("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") === "3", 120)
  })
  afterEach(() => {
    slurm.restore()
    place.remove()
  })

  const start = (until: string, sets: ReadonlyArray<string> = [], ...more: ReadonlyArray<string>): Driver =>
    place.start([...flags, "--until", until, ...more], {}, { pipeline, sets })
  const march = (...more: ReadonlyArray<string>) => start("marched", ["pause=200"], ...more)
  const begun = async (...more: ReadonlyArray<string>) => {
    const driver = march(...more)
    await driver.says(/marched: job \d+ runs on n\[\d[-,]\d\]/, 120)
    await until("five steps are done", () => marched() >= 5, 120)
    return driver
  }
  /** The number of steps in its newest checkpoint. */
  const marched = () => {
    const folder = join(place.home, "checkpoints")
    const names = existsSync(folder) ? readdirSync(folder, { recursive: true }).map(String) : []
    return Math.max(0, ...names.flatMap((name) => /\/(\d+)$/.exec(name)?.[1] ?? []).map(Number))
  }
  const errorOf = async (driver: Driver, node: string) => {
    const { code, document } = await driver.ended
    expect(code).toBe(1)
    return document!.nodes.find(({ id }) => id === node)!.error
  }
  const expectRight = async (driver: Driver, node = "marched") => {
    const { code, document, said } = await driver.ended
    if (code !== 0) throw new Error(said)
    expect(digestsOf(document)[node]).toBe(expected[node])
    return said
  }
  /** The processes of one rank of the job: its worker and its stage. */
  const processesOf = (rank: number, node: string) =>
    processes(
      (environ) =>
        environ.includes(`SLURM_PROCID=${rank}\0`) && environ.includes(`SLURMD_NODENAME=${node}\0`) && environ.includes(slurm.folder)
    )
  const nodesOf = (driver: Driver) => {
    const [, first, second] = /marched: job \d+ runs on n\[(\d)[-,](\d)\]/.exec(driver.said())!
    return [`n${first}`, `n${second}`] as const
  }

  it("give the same weights, bit for bit, as two ranks on this machine", async () => {
    expect(await expectRight(start("trained"), "trained")).toMatch(/trained: job \d+ runs on n\[1-2\]/)
  })

  it.each([
    ["fails", 1, /^Rank 1 of 2 on n2: not with me/],
    ["fails", 0, /^Rank 0 of 2 on n1: not with me/],
    ["dies", 1, /^Rank 1 of 2 on n2: The process of stage misbehaving was killed/],
    [
      "hangs",
      1,
      /^Rank 0 of 2 on n1 waited \d+ s for the others in operation 2, the second sum\. Rank 1 on n2 has finished operation 1, the first sum, and is idle/
    ]
  ])("end together if one %s (rank %i), and the error has its message, its rank and its node", async (how, which, message) => {
    expect(await errorOf(start("sums", [`how=${how}`, `which=${which}`], "--rank-seconds", "2"), "sums")).toMatch(message)
    await until("no rank is alive", () => [0, 1].every((rank) => ["n1", "n2", "n3"].every((node) => processesOf(rank, node).length === 0)))
  })

  it("end if one rank's worker is killed, and with --retries continue from the checkpoint to the same result", async () => {
    const driver = await begun("--retries", "1")
    const [, second] = nodesOf(driver)
    // The worker first: it would report the end of its stage.
    for (const pid of processesOf(1, second).toSorted((a, b) => a - b)) process.kill(pid, "SIGKILL")
    const said = await expectRight(driver)
    expect(said).toMatch(new RegExp(`marched: failed; retrying \\(1 of 1\\): Rank 1 of 2 on ${second}: its process has ended \\(killed\\)`))
    expect(said).toMatch(/goes on after step \d+/)
  })

  it("continue on other nodes, from the checkpoint to the same result, if the second node fails", async () => {
    const driver = await begun()
    slurm.kill(`slurmd-${nodesOf(driver)[1]}`)
    expect(await expectRight(driver)).toMatch(/goes on after step \d+/)
  })

  it("save a checkpoint if the job is preempted, and continue from it", async () => {
    const driver = await begun()
    slurm.command("sbatch", "-p", "high", "-N3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    const said = await expectRight(driver)
    // The ranks are notified before the job is ended, so they may have saved by then.
    expect(said).toMatch(/marched: job \d+(, restart 1 runs on| on .* asked to stop\): submitted again)/)
    expect(said).toMatch(/goes on after step \d+/)
  })

  it("save a checkpoint if the driver is interrupted and cancels the job; the next run continues from it", async () => {
    const driver = await begun("--on-interrupt", "cancel")
    driver.process.kill("SIGINT")
    expect((await driver.ended).code).toBe(130)
    await until("no job runs", () => !/RUNNING|COMPLETING|PENDING/.test(slurm.command("squeue", "--me", "-h", "-o", "%T")))
    expect(await expectRight(march())).toMatch(/goes on after step \d+/)
  })

  it("compute nothing if one node would give other results bit for bit, and the error names the node", async () => {
    const prolog = join(place.folder, "prolog")
    writeFileSync(prolog, `#!/bin/sh\n[ "$SLURM_PROCID" = 1 ] && echo export ATEN_CPU_CAPABILITY=default\nexit 0\n`, { mode: 0o755 })
    configure({ setup: `export SLURM_TASK_PROLOG=${prolog}` })
    expect(await errorOf(march(), "marched")).toMatch(
      /^Rank 1 of 2 on n\d: its numerics do not match the key: .*expected.*Choose identical nodes/
    )
  })

  it("report over what and from where they could not connect, and which variable selects the interface", async () => {
    configure({ setup: "export GLOO_SOCKET_IFNAME=nosuch0" })
    expect(await errorOf(march(), "marched")).toMatch(
      /^Rank \d of 2 on n\d joined the others at 127\.0\.0\.1:\d+, but could not connect to them over Gloo: .*GLOO_SOCKET_IFNAME selects the network interface/
    )
  })

  it("are rejected before anything is submitted if they can't be distributed evenly over the nodes", async () => {
    expect(await errorOf(start("sums", [], "--ranks", "3"), "sums")).toMatch(
      /asks for 2 nodes and runs as 3 ranks: each node must have the same number of ranks.*--ranks 4/
    )
  })
})
