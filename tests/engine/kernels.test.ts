import { spawnSync } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { environment } from "../../engine/device.ts"
import { type Asked, chosenCore, machineOf, missedCores, parseProcessor, processor } from "../../engine/kernels.ts"
import { findLibtorch } from "../../engine/native/build.mjs"

const emerald = `processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 207
model name	: Intel(R) Xeon(R) Processor
stepping	: 2
flags		: fpu sse3 fma avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl amx_tile

processor	: 1
model		: 1
`

it("a processor is identified by its model numbers, because its name is ambiguous", () => {
  const found = parseProcessor(emerald)
  expect(found).toMatchObject({ vendor: "GenuineIntel", version: "6 207 2" })
  expect(found.flags.has("avx512vl")).toBe(true)
  expect(machineOf(findLibtorch())).toContain(processor()?.version ?? "no /proc/cpuinfo")
})

const of = (vendor: string, ...flags: ReadonlyArray<string>) => ({ vendor, version: "", flags: new Set(flags) })

it("kernels older than the processor are replaced by suitable ones, others stay", () => {
  expect(missedCores(parseProcessor(emerald), "Prescott")).toEqual(["SkylakeX", "Haswell"])
  expect(missedCores(of("GenuineIntel", "avx2", "fma", "avx512f"), "Prescott")).toEqual(["Haswell"])
  expect(missedCores(of("AuthenticAMD", "avx2", "fma"), "Barcelona")).toEqual(["Zen"])
  expect(missedCores(of("GenuineIntel", "sse3", "avx"), "Sandybridge")).toEqual([])
  for (const core of ["Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids", "armv8", ""])
    expect(missedCores(parseProcessor(emerald), core)).toEqual([])
})

describe("the choice of kernels", () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "caravan-kernels-"))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  const said = (core: string): Asked => ({ status: 0, signal: null, stdout: `OpenBLAS 0.3.21 DYNAMIC_ARCH ${core}`, stderr: "" })
  const ended = (signal: string | null, status: number | null = null, stderr = ""): Asked => ({ status, signal, stdout: "", stderr })
  /** Chooses with these answers, given by requested core ("" for OpenBLAS's own choice); and the requests. */
  const choose = (answers: Record<string, Asked>, machine: ReadonlyArray<string> = ["machine"]) => {
    const asked: Array<string> = []
    const core = chosenCore(join(folder, "addon.node"), machine, parseProcessor(emerald), (_, core = "") => {
      asked.push(core)
      return answers[core]!
    })
    return { core, asked }
  }

  it("is computed once, and again on another machine", () => {
    const answers = { "": said("Prescott"), SkylakeX: said("SkylakeX") }
    expect(choose(answers)).toEqual({ core: "SkylakeX", asked: ["", "SkylakeX"] })
    expect(choose(answers)).toEqual({ core: "SkylakeX", asked: [] })
    expect(choose({ "": said("Cooperlake") }, ["another"])).toEqual({ core: "", asked: [""] })
  })

  it("skips kernels that OpenBLAS does not have, that do not run on the processor, or that multiply wrongly", () => {
    for (const [i, refused] of [said("Cooperlake"), ended("SIGILL"), ended(null, 3)].entries())
      expect(choose({ "": said("Prescott"), SkylakeX: refused, Haswell: said("Haswell") }, [`${i}`]).core).toBe("Haswell")
    const none = { "": said("Prescott"), SkylakeX: ended("SIGILL"), Haswell: ended("SIGILL") }
    expect(choose(none, ["none"])).toEqual({ core: "", asked: ["", "SkylakeX", "Haswell"] })
  })

  it("fails, and is not cached, without an answer", () => {
    const answers = { "": said("Prescott"), SkylakeX: ended("SIGKILL") }
    expect(() => choose(answers)).toThrow(
      /expected an answer, but the process was ended by SIGKILL\. Run this again, or set OPENBLAS_CORETYPE/
    )
    expect(() => choose({ "": ended(null, 1, "at line 1\nError: no such library") })).toThrow(/ended with 1: Error: no such library/)
    expect(readdirSync(folder)).toEqual([])
    expect(choose({ ...answers, SkylakeX: said("SkylakeX") }).core).toBe("SkylakeX")
  })
})

const fast = processor()?.flags.has("avx2") === true && environment().blas.startsWith("OpenBLAS")

/** The core with which a separate process multiplies, with or without a user's setting. */
const coreUnder = (setting: string | undefined): string => {
  const { OPENBLAS_CORETYPE: _, ...env } = process.env
  const script = `import("${import.meta.resolve("../../engine/device.ts")}").then(({ environment }) => process.stdout.write(environment().blas.split(" ").at(-1)))`
  return spawnSync(process.execPath, ["-e", script], {
    encoding: "utf8",
    env: setting === undefined ? env : { ...env, OPENBLAS_CORETYPE: setting }
  }).stdout
}

it.skipIf(!fast)("OpenBLAS multiplies with kernels that suit this processor", () => {
  const core = coreUnder(undefined)
  expect(core).not.toBe("")
  expect(missedCores(processor()!, core)).toEqual([])
  // An empty setting counts as none: OpenBLAS would treat it as the name of an unknown core, and use other kernels.
  expect(coreUnder("")).toBe(core)
})

it.skipIf(!fast)("a user's own OPENBLAS_CORETYPE is kept", () => {
  expect(coreUnder("Prescott")).toBe("Prescott")
})
