/** Runs the tests of models and stages again without the CPU kernels, as with other dtypes and on a GPU. */
import { expect, it } from "vitest"
import { isFused, useKernels } from "../../engine/fused.ts"
import { tensor } from "../../engine/tensor.ts"

useKernels(false)
for (const file of ["./llama.golden", "./families.golden", "./lora", "./sampler", "../stages/whole-stages"]) await import(`${file}.test.ts`)

it("no kernel is used here", () => {
  expect(isFused(tensor([1]))).toBe(false)
})
