/** Which checkpoints are copied to be written later. tests/stages/resume.test.ts checks that stages resume from them bit for bit. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, expect, it } from "vitest"
import { tensor } from "../../../engine/tensor.ts"
import { TensorSnapshot } from "../../../models/safetensors.ts"
import { type Checkpoints, type HeldFile, noCheckpoints } from "../../../runtime/define/resume-points.ts"
import { saveTensors } from "../../../stages/common/checkpointed.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-checkpointed-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it("those up to a size limit are held in memory; larger ones are written before the stage continues", async () => {
  const held: Array<HeldFile> = []
  const checkpoints: Checkpoints = { ...noCheckpoints, save: (_, write) => Effect.orDie(write(folder, (file) => held.push(file))) }
  // 12 and 4 bytes.
  const tensors = [{ a: tensor([1, 2, 3]) }, { b: tensor([4, 5], { dtype: "bfloat16" }) }]
  const save = (name: string, most: number) =>
    Effect.runPromise(
      saveTensors(
        checkpoints,
        new TensorSnapshot(),
        { step: 1, tensors, write: (into, writeTensors) => writeTensors(join(into, name), tensors[0]!) },
        most
      )
    )
  await save("held", 16)
  expect(held.map(({ path }) => path)).toEqual([join(folder, "held")])
  await save("written", 15)
  expect(held).toHaveLength(1)
  expect(Buffer.compare(held[0]!.bytes, readFileSync(join(folder, "written")))).toBe(0)
})
