/** Stages with tensors on nodes: the bits of this machine, and nodes that would compute other bits. Concurrent drivers, and a driver at a terminal. */
import { spawn, spawnSync } from "node:child_process"
import { join } from "node:path"
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest"
import { command } from "../cli/caravan.ts"
import { bringUp, digestsOf, makePlace, type Place, pausing, type Slurm, until } from "./harness.ts"

const found = bringUp()
const why = typeof found === "string" ? ` (skipped: ${found})` : ""
const slurm = found as Slurm
afterAll(() => {
  if (typeof found !== "string") found.down()
})
const configure = (place: Place, profile: object = {}) =>
  place.configure({ slurm: { pollSeconds: 1, profiles: { default: { partition: "low", cpus: 1, memory: 1500, ...profile } } } })

describe.skipIf(why !== "")(`on a cluster${why}`, { timeout: 400_000 }, () => {
  let place: Place
  beforeEach(() => {
    place = makePlace(slurm.environment, { steps: 40, pause: 100 })
    configure(place)
  })
  afterEach(() => {
    slurm.restore()
    place.remove()
  })

  it("a model is trained and sampled from with the bits of this machine", () => {
    const here = makePlace(slurm.environment)
    const expected = digestsOf(here.run("../resume/pipeline.ts", [], []))
    here.remove()
    expect(digestsOf(place.run("../resume/pipeline.ts", [], ["--on", "slurm"]))).toEqual(expected)
  })

  it("a node that would compute other bits computes nothing, and is named", () => {
    // Like an older processor.
    configure(place, { setup: "export ATEN_CPU_CAPABILITY=default" })
    const { status, stderr } = place.caravan(
      "run",
      new URL("../resume/pipeline.ts", import.meta.url).pathname,
      "--on",
      "slurm",
      "--until",
      "policy"
    )
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/Its job \d+ can't run on n\d: its numerics do not match the key: .*expected.*Choose identical nodes/)
    ])
  })

  it("a node whose clock is hours off is reported; the result is the same", async ({ skip }) => {
    const library = join(place.folder, "ahead.so")
    const source = `#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) { int done = syscall(SYS_clock_gettime, id, t); if (id == CLOCK_REALTIME) t->tv_sec += 7200; return done; }
int gettimeofday(struct timeval *t, void *zone) { int done = syscall(SYS_gettimeofday, t, zone); t->tv_sec += 7200; return done; }
`
    if (spawnSync("cc", ["-shared", "-fPIC", "-o", library, "-x", "c", "-"], { input: source }).status !== 0)
      return skip("there is no C compiler here")
    const here = makePlace(slurm.environment, { steps: 40, pause: 0 })
    const expected = digestsOf((await here.start([]).ended).document)
    here.remove()
    configure(place, { setup: `export LD_PRELOAD=${library}` })
    const { code, document, said } = await place.start(["--on", "slurm"]).ended
    expect([code, digestsOf(document)]).toEqual([0, expected])
    expect(said).toMatch(
      /the clock of n\d is 7[12]\d\d s ahead of that of the shared file system: times in logs are off by that, but results are correct/
    )
  })

  it("two drivers of one store make each result once", async () => {
    const drivers = [place.start(["--on", "slurm"]), place.start(["--on", "slurm"])]
    const [one, other] = await Promise.all(drivers.map(({ ended }) => ended))
    expect([one!.code, other!.code, digestsOf(one!.document)]).toEqual([0, 0, digestsOf(other!.document)])
    expect(place.diary().length).toBe(80)
  })

  it("Ctrl-C at a terminal asks what to do with the jobs, and does that", async ({ skip }) => {
    if (spawnSync("script", ["--version"]).status !== 0) return skip("there is no `script` here, which gives a terminal")
    const args = [command, "run", new URL("pipeline.ts", import.meta.url).pathname, "--on", "slurm", "--checkpoint-seconds", "0"]
    const sets = [`file=${place.folder}/words.txt`, "steps=100", "pause=200", `diary=${place.folder}/diary`].flatMap((set) => [
      "--set",
      set
    ])
    const line = [process.execPath, ...args, ...sets].map((word) => `'${word}'`).join(" ")
    for (const [answer, left] of [
      ["l", true],
      ["c", false]
    ] as const) {
      const env = { ...slurm.environment, CARAVAN_HOME: place.home, NODE_OPTIONS: "" }
      const child = spawn("script", ["-qefc", line, "/dev/null"], { cwd: place.folder, env, stdio: ["pipe", "pipe", "ignore"] })
      let said = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text))
      const ended = new Promise<number | null>((resolve) => child.once("close", resolve))
      await until(`both walks run: ${said}`, () => /walk-1: job \d+/.test(said) && /walk-2: job \d+/.test(said), 90)
      await pausing(1500)
      child.stdin.write("\u0003")
      await until("it asks", () => /Slurm jobs running.*or cancel them/.test(said))
      child.stdin.write(`${answer}\n`)
      expect(await ended).toBe(130)
      await pausing(8000)
      expect(/RUNNING/.test(slurm.command("squeue", "--me", "-h", "-o", "%T"))).toBe(left)
    }
  })
})
