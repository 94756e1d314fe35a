/** DPO's loss and gradient compared with PyTorch in float64 (tests/golden/baselines), and with TRL. */
import { readFileSync } from "node:fs"
import { expect, it } from "vitest"
import { scoped, tensor, type Tensor } from "../../../engine/tensor.ts"
import { dpoLoss } from "../../../stages/dpo/losses.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

type Rows = ReadonlyArray<ReadonlyArray<number>>
const golden = JSON.parse(readFileSync(new URL("../../golden/baselines/losses.json", import.meta.url), "utf8")) as {
  readonly dpoBeta: number
  readonly new: Rows
  readonly reference: Rows
  readonly dpo: { readonly loss: number; readonly gradient: Rows }
}
const wide = (values: ReadonlyArray<number>): Tensor => tensor(Float64Array.from(values))

it("DPO's loss and its gradient equal PyTorch's in float64, and TRL's", () => {
  const sums = (rows: Rows) => rows.map((row) => row.reduce((a, b) => a + b, 0))
  const pairs = golden.new.length / 2
  const ours = scoped(() => {
    const now = wide(sums(golden.new)).requiresGrad()
    const reference = wide(sums(golden.reference))
    const halves = (all: Tensor) => ({ chosen: all.slice(0, 0, pairs), rejected: all.slice(0, pairs, 2 * pairs) })
    const loss = dpoLoss(halves(now), halves(reference), golden.dpoBeta).div(pairs)
    loss.backward()
    return { loss: loss.item(), gradient: now.grad()!.toNumbers() }
  })
  expect(Math.abs(ours.loss - golden.dpo.loss)).toBeLessThanOrEqual(float64)
  // The gradient of a response's log-probability equals that of each of its tokens.
  const wanted = golden.dpo.gradient.map((row) => row[0]!)
  expect(golden.dpo.gradient.every((row, i) => row.every((x) => Math.abs(x - wanted[i]!) <= float64))).toBe(true)
  expect(largestDifference(ours.gradient, wanted)).toBeLessThanOrEqual(float64)
})
