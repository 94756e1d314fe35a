/** The curve in a checkpoint, if it can't be read. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, expect, it, vi } from "vitest"
import { withCurve, Curve } from "../../../runtime/run/curve.ts"
import { openCheckpoints } from "../../../runtime/store/resume-points.ts"

const refusal = vi.hoisted(() => ({ code: "" }))
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>()
  const readFile = async (...given: Parameters<typeof fs.readFile>) => {
    if (refusal.code !== "" && typeof given[0] === "string" && given[0].endsWith("curve.bin"))
      throw Object.assign(new Error(refusal.code), { code: refusal.code })
    return fs.readFile(...given)
  }
  return { ...fs, readFile }
})

const folder = mkdtempSync(join(tmpdir(), "caravan-curve-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it("is not restarted because of too many open files: the checkpoint stays, and a retry may help; a checkpoint without a curve has no rows", async () => {
  const checkpoints = openCheckpoints({ folder, seconds: Infinity }, () => {})
  const before = new Curve()
  for (const step of [1, 2]) before.add({ step, loss: 1 / step })
  await Effect.runPromise(withCurve(checkpoints, before).save(2, () => Effect.void))
  const resumed = new Curve()
  const { latest } = withCurve(checkpoints, resumed)
  refusal.code = "EMFILE"
  expect(await Effect.runPromise(Effect.flip(latest))).toMatchObject({ reason: "Checkpoint", isRetryable: true })
  refusal.code = "ENOENT"
  expect([(await Effect.runPromise(latest))?.step, resumed.rows]).toEqual([2, 0])
  refusal.code = ""
  expect([(await Effect.runPromise(latest))?.step, resumed.rows]).toEqual([2, 2])
})
