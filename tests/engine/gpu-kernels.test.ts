/** Our GPU kernels compared with the same formulas in plain float64 operators: values and gradients, in both supported dtypes. */
import { describe, expect, it } from "vitest"
import { gpuKernelsMissing } from "../../engine/device.ts"
import { composedRmsNorm, composedSwiglu, hasGpuKernels, residualNorm, rmsNorm, swiglu, useKernels } from "../../engine/fused.ts"
import { accumulateGradients } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { Random } from "../../engine/random.ts"
import { backward } from "../../engine/segments.ts"
import { aten, atenVoid, cat, type Device, type DType, keep, scoped, tensor, type Tensor, zeros } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"
import { bfloat16, fused } from "../tolerances.ts"

const normal = (seed: number, ...shape: ReadonlyArray<number>) => {
  const random = new Random(seed, "gpu kernels")
  return { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random.normal()) }
}
type Numbers = ReturnType<typeof normal>
type Form = (...inputs: ReadonlyArray<Tensor>) => Tensor

/** Numbers that both dtypes represent exactly, so that only the computation differs. */
const run = (form: Form, inputs: ReadonlyArray<Numbers>, device: Device, dtype: DType) =>
  scoped(() => {
    const leaves = inputs.map(({ data, shape }) =>
      tensor(data, { shape }).to({ dtype: "bfloat16" }).to({ device, dtype }).detach().requiresGrad()
    )
    const out = form(...leaves)
    const pull = normal(9, ...out.shape)
    out
      .mul(tensor(pull.data, { shape: pull.shape, device }).to({ dtype: "bfloat16" }).to({ dtype }))
      .sum()
      .backward()
    return [out.detach(), ...leaves.map((leaf) => leaf.grad()!)].map((found) => found.toNumbers())
  })
const away = (found: ReadonlyArray<number>, wanted: ReadonlyArray<number>): number => {
  expect(found.length).toBe(wanted.length)
  const most = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 1)
  return found.reduce((worst, x, i) => Math.max(worst, Math.abs(x - wanted[i]!)), 0) / most
}

const gpu = devices.find(({ device }) => device === "cuda")!
describe.skipIf(gpu.skip)("kernels for the GPU", () => {
  it("are available", () => {
    expect(gpuKernelsMissing()).toBeUndefined()
    expect(scoped(() => hasGpuKernels(tensor([1], { device: "cuda" })))).toBe(true)
  })

  const norms = [
    [3, 8],
    [5, 72],
    [700, 768],
    [2, 4096],
    [33, 8192]
  ] as const
  it.each(norms.flatMap(([rows, dim]) => (["float32", "bfloat16"] as const).map((dtype) => [rows, dim, dtype] as const)))(
    "normalise %i rows of %i in %s",
    (rows, dim, dtype) => {
      const inputs = [normal(1, rows, dim), normal(2, dim)]
      const wanted = run((x, w) => composedRmsNorm(x, w, 1e-5), inputs, "cpu", "float64")
      const found = run((x, w) => rmsNorm(x, w, 1e-5), inputs, "cuda", dtype)
      found.forEach((numbers, i) => expect(away(numbers, wanted[i]!)).toBeLessThanOrEqual(dtype === "float32" ? fused : bfloat16))
    }
  )
  // x beside its norm, so that x gets a gradient by both paths.
  const beside: Form = (x, w) => cat(residualNorm(x, w, 1e-5), -1)
  const residuals = [[1, 64], [4099, 264], [701, 2048], [3, 12], [2, 8200], ...norms] as const
  it.each(residuals.flatMap(([rows, dim]) => (["float32", "bfloat16"] as const).map((dtype) => [rows, dim, dtype] as const)))(
    "pass on and normalise %i rows of %i in %s, and add both gradients",
    (rows, dim, dtype) => {
      const inputs = [normal(1, rows, dim), normal(2, dim)]
      const wanted = run((x, w) => cat([x, composedRmsNorm(x, w, 1e-5)], -1), inputs, "cpu", "float64")
      const found = run(beside, inputs, "cuda", dtype)
      found.forEach((numbers, i) => expect(away(numbers, wanted[i]!)).toBeLessThanOrEqual(dtype === "float32" ? fused : bfloat16))
      // The same bits every time.
      expect(run(beside, inputs, "cuda", dtype)).toEqual(found)
    }
  )
  /** Gradients of x (R, D) and of its weight from those of the passed-on x and of the norm, where there are any; undefined where there is none. */
  const residualGradients = (
    x: Numbers,
    { along, isFrozen = false, normed }: { readonly along?: Numbers; readonly normed?: Numbers; readonly isFrozen?: boolean }
  ) =>
    scoped(() => {
      const on = ({ data, shape }: Numbers) => tensor(data, { shape, device: "cuda" })
      const [leaf, weight] = [on(x).requiresGrad(), on(normal(2, x.shape.at(-1)!)).requiresGrad(!isFrozen)]
      const outputs = residualNorm(leaf, weight, 1e-5)
      const sums = [along, normed].flatMap((pull, i) => (pull === undefined ? [] : [outputs[i]!.mul(on(pull)).sum()]))
      sums.reduce((a, b) => a.add(b)).backward()
      return [leaf.grad()?.toNumbers(), weight.grad()?.toNumbers()]
    })
  const [states, along, normed] = [normal(1, 33, 768), normal(3, 33, 768), normal(4, 33, 768)]
  const sums = [[701, 2048], [3, 12], ...norms] as const
  it.each(sums.flatMap(([rows, dim]) => (["float32", "bfloat16"] as const).map((dtype) => [rows, dim, dtype] as const)))(
    "add %i rows of %i in %s to a residual connection and normalise the sum",
    (rows, dim, dtype) => {
      const inputs = [normal(1, rows, dim), normal(2, dim), normal(3, rows, dim)]
      // The composed form rounds the sum to the dtype too, before the norm reads it.
      const composed: Form = (x, w, y) => {
        const sum = x.add(y)
        return cat([sum, composedRmsNorm(sum, w, 1e-5)], -1)
      }
      const wanted = run(composed, inputs, "cpu", "float64")
      const added: Form = (x, w, y) => cat(residualNorm(x, w, 1e-5, y), -1)
      const found = run(added, inputs, "cuda", dtype)
      found.forEach((numbers, i) => expect(away(numbers, wanted[i]!)).toBeLessThanOrEqual(dtype === "float32" ? fused : bfloat16))
      expect(found[3]).toEqual(found[1])
      expect(run(added, inputs, "cuda", dtype)).toEqual(found)
      // The sums are those of separate operators.
      const sum = (form: Form) => run((x, w, y) => form(x, w, y).slice(-1, 0, dim), inputs, "cuda", dtype)[0]
      expect(sum(added)).toEqual(sum(composed))
    }
  )
  it("need no gradient of a norm that nothing reads, or of an x that nothing else reads", () => {
    expect(residualGradients(states, { along })).toEqual([Array.from(along.data), undefined])
    const zero = { ...along, data: along.data.map(() => 0) }
    expect(residualGradients(states, { normed })).toEqual(residualGradients(states, { along: zero, normed }))
  })
  it("give the weight no gradient if it is frozen", () => {
    const [ofX, ofWeight] = residualGradients(states, { along, normed })
    expect(ofWeight!.length).toBe(768)
    expect(residualGradients(states, { along, normed, isFrozen: true })).toEqual([ofX, undefined])
  })
  it("do not hide NaN in a norm or its gradients", () => {
    /** NaN in row 5, column 3. */
    const broken = (whole: Numbers) => ({ ...whole, data: whole.data.map((x, i) => (i === 5 * 768 + 3 ? NaN : x)) })
    const places = (numbers: ReadonlyArray<number> | undefined) => numbers!.flatMap((x, i) => (Number.isNaN(x) ? [i] : []))
    const row = Array.from({ length: 768 }, (_, i) => 5 * 768 + i)
    expect(residualGradients(broken(states), { along, normed }).map(places)).toEqual([row, row.map((i) => i - 5 * 768)])
    expect(residualGradients(states, { along, normed: broken(normed) }).map(places)).toEqual([row, [3]])
    expect(residualGradients(states, { along: broken(along), normed }).map(places)).toEqual([[5 * 768 + 3], []])
  })
  const gates = [
    [3, 16],
    [1, 22016],
    [77, 4096]
  ] as const
  it.each(gates.flatMap(([rows, both]) => (["float32", "bfloat16"] as const).map((dtype) => [rows, both, dtype] as const)))(
    "gate %i rows of %i in %s",
    (rows, both, dtype) => {
      const inputs = [normal(1, rows, both)]
      // Some values far from 0, where an exponential overflows or vanishes.
      inputs[0]!.data.forEach((x, i) => (inputs[0]!.data[i] = i % 7 === 0 ? 40 * x : x))
      const wanted = run((x) => composedSwiglu(x), inputs, "cpu", "float64")
      const found = run((x) => swiglu(x), inputs, "cuda", dtype)
      found.forEach((numbers, i) => expect(away(numbers, wanted[i]!)).toBeLessThanOrEqual(dtype === "float32" ? fused : bfloat16))
    }
  )

  const caches = [
    ["float32", 16],
    ["bfloat16", 64],
    ["bfloat16", 128]
  ] as const
  it.each(
    caches.flatMap((one) => [1, 2].flatMap((splits) => (["keys", "values"] as const).map((where) => [...one, splits, where] as const)))
  )("do not hide NaN in the cache of a decoding step: %s, heads of %i, the keys in %i parts, NaN in %s", (dtype, dim, splits, where) => {
    scoped(() => {
      const [batch, capacity] = [2, 640]
      const floats = (...shape: ReadonlyArray<number>) => zeros(shape, { device: "cuda", dtype })
      const [keys, values] = [floats(batch, 1, capacity, dim), floats(batch, 1, capacity, dim)]
      // The first sequence reads position 600, and attends to a NaN at 3; the second has ended.
      const broken = where === "keys" ? keys : values
      broken.select(0, 0).select(0, 0).select(0, 3).fill_(NaN)
      const out = floats(batch, dim)
      const [cos, sin] = [floats(capacity, dim), floats(capacity, dim)]
      const partial = splits === 1 ? null : zeros([batch, splits * (dim + 2)], { device: "cuda" })
      const positions = tensor(Int32Array.of(600, -1), { device: "cuda" })
      const qkv = floats(batch, 3 * dim)
      atenVoid("caravan::decode_attend_", qkv, cos, sin, keys, values, positions, out, partial, 1, splits, 0, true)
      expect(out.toNumbers()).toEqual([...new Array<number>(dim).fill(NaN), ...new Array<number>(dim).fill(0)])
    })
  })

  // Kernels take eight numbers at a time where they can: not the last few, nor at an address that is not a multiple of 16 bytes.
  const counts = [8000, 8001, 5] as const
  it.each(
    counts.flatMap((count) =>
      [0, 1].flatMap((skipped) => (["float32", "bfloat16"] as const).map((dtype) => [count, skipped, dtype] as const))
    )
  )("measure and clip %i gradients from number %i on, in %s", (count, skipped, dtype) =>
    scoped(() => {
      const { data } = normal(7, skipped + count + 9)
      const all = tensor(data, { device: "cuda" }).to({ dtype })
      const gradient = all.slice(0, skipped, skipped + count)
      const exact = gradient.to({ device: "cpu", dtype: "float64" }).toNumbers()
      const norm = aten("caravan::gradient_norm", [gradient, gradient]).item()
      const wanted = Math.sqrt(2 * exact.reduce((sum, x) => sum + x * x, 0))
      expect(Math.abs(norm - wanted)).toBeLessThanOrEqual(1e-6 * wanted)
      for (const factor of [1, 0.37]) {
        atenVoid("caravan::shrink_", [gradient], tensor([factor], { device: "cuda", dtype: "float32" }))
        const rounded = tensor(
          exact.map((x) => Math.fround(x * Math.fround(factor))),
          { dtype: "float32" }
        )
          .to({ dtype })
          .toNumbers()
        expect(gradient.toNumbers()).toEqual(factor === 1 ? exact : rounded)
      }
      // Numbers beside them stay as they are.
      const beside = (numbers: ReadonlyArray<number>) => [...numbers.slice(0, skipped), ...numbers.slice(skipped + count)]
      expect(beside(all.toNumbers())).toEqual(beside(tensor(data, { dtype: "float32" }).to({ dtype }).toNumbers()))
    })
  )

  const shapes = [
    [40, 30],
    [7, 43]
  ] as const
  it.each(shapes.flatMap((shape) => (["float32", "bfloat16"] as const).map((dtype) => [...shape, dtype] as const)))(
    "take AdamW steps for weights of %i x %i with gradients in %s like libtorch",
    (rows, columns, dtype) => {
      const steps = (on: boolean) => {
        useKernels(on)
        try {
          const { data, shape } = normal(1, rows, columns)
          const w = keep(scoped(() => tensor(data, { shape, device: "cuda" }).to({ dtype: "bfloat16" }).detach())).requiresGrad()
          const optimizer = new AdamW({ parameters: { w } })
          for (let step = 0; step < 5; step++) {
            // A sum over several micro-batches is float32.
            accumulateGradients({ w }, dtype === "float32" ? [1, 2] : [1], (part) => {
              const pull = normal(10 * step + part, rows, columns)
              backward(w.mul(tensor(pull.data, { shape, device: "cuda" }).to({ dtype: "bfloat16" })).sum())
            })
            scoped(() => expect(w.grad()!.dtype).toBe(dtype))
            optimizer.step(1e-2)
          }
          const state = scoped(() => Object.entries(optimizer.state).map(([name, value]) => [name, value.toNumbers()] as const))
          const weight = scoped(() => w.toNumbers())
          optimizer.free()
          w.free()
          return { state: Object.fromEntries(state), weight }
        } finally {
          useKernels(true)
        }
      }
      const [wanted, found] = [steps(false), steps(true)]
      expect(Object.keys(found.state)).toEqual(Object.keys(wanted.state))
      for (const [name, numbers] of Object.entries(wanted.state))
        expect([name, away(found.state[name]!, numbers) <= 1e-6]).toEqual([name, true])
      expect(away(found.weight, wanted.weight)).toBeLessThanOrEqual(2 ** -8)
    }
  )
})
