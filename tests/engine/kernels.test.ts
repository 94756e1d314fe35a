import { spawnSync } from "node:child_process"
import { expect, it } from "vitest"
import { environment } from "../../engine/device.ts"
import { machineOf, missedCore, parseProcessor, processor } from "../../engine/kernels.ts"
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

it("a processor is told apart by its numbers: its name says too little", () => {
  const found = parseProcessor(emerald)
  expect(found).toMatchObject({ vendor: "GenuineIntel", version: "6 207 2" })
  expect(found.flags.has("avx512vl")).toBe(true)
  expect(machineOf(findLibtorch())).toContain(processor()?.version ?? "no /proc/cpuinfo")
})

it("kernels older than the processor are replaced by what it can do, others stay", () => {
  const of = (vendor: string, ...flags: ReadonlyArray<string>) => ({ vendor, version: "", flags: new Set(flags) })
  expect(missedCore(parseProcessor(emerald), "Prescott")).toBe("SkylakeX")
  expect(missedCore(of("GenuineIntel", "avx2", "fma", "avx512f"), "Prescott")).toBe("Haswell")
  expect(missedCore(of("AuthenticAMD", "avx2", "fma"), "Barcelona")).toBe("Zen")
  expect(missedCore(of("GenuineIntel", "sse3", "avx"), "Sandybridge")).toBeUndefined()
  for (const core of ["Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids", "armv8", ""])
    expect(missedCore(parseProcessor(emerald), core)).toBeUndefined()
})

const fast = processor()?.flags.has("avx2") === true && environment().blas.startsWith("OpenBLAS")

/** The core that a process of its own multiplies with, under a setting of the user's or none. */
const coreUnder = (setting: string | undefined): string => {
  const { OPENBLAS_CORETYPE: _, ...env } = process.env
  const script = `import("${import.meta.resolve("../../engine/device.ts")}").then(({ environment }) => process.stdout.write(environment().blas.split(" ").at(-1)))`
  return spawnSync(process.execPath, ["-e", script], {
    encoding: "utf8",
    env: setting === undefined ? env : { ...env, OPENBLAS_CORETYPE: setting }
  }).stdout
}

it.skipIf(!fast)("OpenBLAS multiplies with kernels that this processor deserves", () => {
  const core = coreUnder(undefined)
  expect(core).not.toBe("")
  expect(missedCore(processor()!, core)).toBeUndefined()
})

it.skipIf(!fast)("a user's own OPENBLAS_CORETYPE stays", () => {
  expect(coreUnder("Prescott")).toBe("Prescott")
})
