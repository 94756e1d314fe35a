/** What is said of models and stages holds as well where the CPU's kernels are not used: in other dtypes, and on a GPU. The same statements once more, without them. */
import { expect, it } from "vitest"
import { isFused, useKernels } from "../../engine/fused.ts"
import { tensor } from "../../engine/tensor.ts"

useKernels(false)
for (const file of ["./llama.golden", "./families.golden", "./lora", "./sampler", "../stages/whole-stages"]) await import(`${file}.test.ts`)

it("no kernel is used here", () => {
  expect(isFused(tensor([1]))).toBe(false)
})
