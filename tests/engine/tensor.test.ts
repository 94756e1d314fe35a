import { describe, expect, it } from "vitest"
import { hasCuda } from "../../engine/device.ts"
import {
  arange,
  cat,
  crossEntropy,
  embedding,
  fromBytes,
  keep,
  linear,
  liveTensors,
  noGrad,
  scoped,
  stack,
  tensor,
  Tensor,
  TensorError,
  where,
  zeros
} from "../../engine/tensor.ts"

const gpu = hasCuda()

describe("tensors", () => {
  it("keep their data, shape and dtype through every dtype", () => {
    for (const dtype of ["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8"] as const) {
      const t = tensor(
        [
          [1, 2, 3],
          [4, 5, 6]
        ],
        { dtype }
      )
      expect([dtype, t.dtype, t.shape, t.toNumbers()]).toEqual([dtype, dtype, [2, 3], [1, 2, 3, 4, 5, 6]])
    }
    expect(tensor([true, false]).dtype).toBe("bool")
    expect(tensor(BigInt64Array.of(2n ** 53n)).toTypedArray()).toEqual(BigInt64Array.of(2n ** 53n))
  })

  it("read and write their raw bytes", () => {
    const bytes = new Uint8Array(Uint16Array.of(0x3f80, 0xc000).buffer) // 1 and -2 in bfloat16
    const t = fromBytes(bytes, { shape: [2], dtype: "bfloat16" })
    expect(t.toNumbers()).toEqual([1, -2])
    expect(t.toBytes()).toEqual(bytes)
  })

  it("compute elementwise, with scalars and broadcasting", () => {
    const t = tensor(
      [
        [1, 2],
        [3, 4]
      ],
      { dtype: "float64" }
    )
    expect(t.add(t).mul(0.5).sub(1).toNumbers()).toEqual([0, 1, 2, 3])
    expect(t.div(tensor([1, 2], { dtype: "float64" })).toNumbers()).toEqual([1, 1, 3, 2])
    expect(t.neg().abs().pow(2).sqrt().toNumbers()).toEqual([1, 2, 3, 4])
    expect(t.ge(2).and(t.lt(4)).toNumbers()).toEqual([0, 1, 1, 0])
    expect(where(t.gt(2), t, t.neg()).toNumbers()).toEqual([-1, -2, 3, 4])
    expect(t.clamp(2, 3).toNumbers()).toEqual([2, 2, 3, 3])
    expect(t.maskedFill(t.eq(3), 0).toNumbers()).toEqual([1, 2, 0, 4])
  })

  it("reduce over one dimension or all", () => {
    const t = tensor(
      [
        [1, 2, 3],
        [6, 5, 4]
      ],
      { dtype: "float64" }
    )
    expect(t.sum().item()).toBe(21)
    expect(t.mean(1).toNumbers()).toEqual([2, 5])
    expect(t.max(1).values.toNumbers()).toEqual([3, 6])
    expect(t.argmax(1).toNumbers()).toEqual([2, 0])
    expect(t.cumsum(1).toNumbers()).toEqual([1, 3, 6, 6, 11, 15])
    expect(t.sort(1, true).indices.toNumbers()).toEqual([2, 1, 0, 0, 1, 2])
    expect(t.topk(2).values.toNumbers()).toEqual([3, 2, 6, 5])
    expect(t.logsumexp(1).toNumbers()[0]).toBeCloseTo(Math.log(Math.E + Math.E ** 2 + Math.E ** 3), 12)
  })

  it("change shape", () => {
    const t = arange(0, 6).view(2, 3)
    expect(t.transpose(0, 1).toNumbers()).toEqual([0, 3, 1, 4, 2, 5])
    expect(t.permute(1, 0).reshape(6).toNumbers()).toEqual([0, 3, 1, 4, 2, 5])
    expect(t.slice(1, 1, 3).toNumbers()).toEqual([1, 2, 4, 5])
    expect(t.select(0, 1).toNumbers()).toEqual([3, 4, 5])
    expect(t.unsqueeze(0).expand(2, 2, 3).shape).toEqual([2, 2, 3])
    expect(cat([t, t], 0).shape).toEqual([4, 3])
    expect(stack([t, t], 0).shape).toEqual([2, 2, 3])
    expect(t.split([1, 2], 1).map((piece) => piece.shape)).toEqual([
      [2, 1],
      [2, 2]
    ])
    expect(t.gather(1, tensor([[2], [0]], { dtype: "int64" })).toNumbers()).toEqual([2, 3])
    expect(t.indexSelect(1, tensor([2, 0], { dtype: "int64" })).toNumbers()).toEqual([2, 0, 5, 3])
  })

  it("multiply matrices and look up embeddings", () => {
    const a = tensor([
      [1, 2],
      [3, 4]
    ])
    expect(a.matmul(a).toNumbers()).toEqual([7, 10, 15, 22])
    expect(
      linear(
        a,
        tensor([
          [1, 1],
          [0, 2]
        ])
      ).toNumbers()
    ).toEqual([3, 4, 7, 8])
    expect(embedding(a, tensor([1, 0], { dtype: "int64" })).toNumbers()).toEqual([3, 4, 1, 2])
  })

  it("report the operator, the shapes and the expectation if they do not fit", () => {
    const a = zeros([2, 3])
    const b = zeros([4, 5])
    expect(() => a.matmul(b)).toThrow(TensorError)
    expect(() => a.matmul(b)).toThrow(
      /matmul: got float32\(2, 3\), float32\(4, 5\); expected \(\.\.\., M, K\) and \(\.\.\., K, N\) of one dtype/
    )
    expect(() => a.add(b)).toThrow(/add\.Tensor: got float32\(2, 3\), float32\(4, 5\); expected shapes that broadcast/)
    expect(() => embedding(a, zeros([1], { dtype: "float32" }))).toThrow(/embedding: .*int64 ids/)
    expect(() => a.view(7)).toThrow(/view: got float32\(2, 3\), \[7\]/)
    expect(() => a.item()).toThrow(/expected one element/)
    // 2^50 numbers: the operands are valid, but there is not enough memory.
    expect(() => zeros([2 ** 25, 1]).add(zeros([1, 2 ** 25]))).toThrow(
      /add\.Tensor: .*expected memory for the result: lower the batch size/
    )
    expect(() => tensor([[1, 2], [3]])).toThrow(/ragged/)
    expect(() => tensor(Float32Array.of(1, 2, 3), { shape: [2, 2] })).toThrow(/16 bytes, the data has 12/)
  })
})

describe("gradients", () => {
  it("of a composed function equal the derivative worked out by hand", () => {
    // f(x) = sum(x^2 * sigmoid(x)); f' = 2x s + x^2 s (1 - s)
    const values = [-1.5, 0.25, 2]
    const x = tensor(values, { dtype: "float64" }).requiresGrad()
    x.square().mul(x.sigmoid()).sum().backward()
    const s = (v: number) => 1 / (1 + Math.exp(-v))
    const expected = values.map((v) => 2 * v * s(v) + v * v * s(v) * (1 - s(v)))
    x.grad()!
      .toNumbers()
      .forEach((g, i) => expect(g).toBeCloseTo(expected[i]!, 12))
  })

  it("of cross-entropy are softmax minus one-hot over the counted rows; ignored rows get none", () => {
    const logits = tensor(
      [
        [0, Math.log(3)],
        [5, 5]
      ],
      { dtype: "float64" }
    ).requiresGrad()
    const loss = crossEntropy(logits, tensor([1, -100], { dtype: "int64" }))
    expect(loss.item()).toBeCloseTo(-Math.log(0.75), 12)
    loss.backward()
    logits
      .grad()!
      .toNumbers()
      .forEach((g, i) => expect(g).toBeCloseTo([0.25, -0.25, 0, 0][i]!, 12))
  })

  it("are not recorded inside noGrad, and are recorded again after it even if it throws", () => {
    const x = tensor([1, 2]).requiresGrad()
    expect(() => noGrad(() => x.sum()).backward()).toThrow(TensorError)
    expect(() =>
      noGrad(() => {
        throw new Error("inside")
      })
    ).toThrow("inside")
    x.sum().backward()
    expect(x.grad()!.toNumbers()).toEqual([1, 1])
  })
})

describe("scopes", () => {
  it("free everything made inside, and nothing else", () => {
    const outside = tensor([1])
    const count = liveTensors()
    const result = scoped(() => {
      const inner = outside.add(1)
      return { kept: [inner.mul(2)], note: "text" }
    })
    expect(liveTensors()).toBe(count + 1)
    expect(result.kept[0]!.item()).toBe(4)
    expect(outside.item()).toBe(1)
  })

  it("pass results on to the enclosing scope", () => {
    const count = liveTensors()
    scoped(() => {
      const a = scoped(() => tensor([1]).add(1))
      const b = scoped(() => a.add(1))
      expect(b.item()).toBe(3)
    })
    expect(liveTensors()).toBe(count)
  })

  it("free everything made inside if the body throws", () => {
    const count = liveTensors()
    expect(() =>
      scoped(() => {
        tensor([1])
        throw new Error("no")
      })
    ).toThrow("no")
    expect(liveTensors()).toBe(count)
  })

  it("free kept tensors only on request", () => {
    const count = liveTensors()
    let t!: Tensor
    scoped(() => {
      t = keep(tensor([3]))
    })
    scoped(() => void scoped(() => t.add(1)))
    expect(t.item()).toBe(3)
    t.free()
    expect(liveTensors()).toBe(count)
  })

  it("turn use after free into an error that says so, never another tensor's data", () => {
    let escaped: Tensor | undefined
    scoped(() => {
      escaped = tensor([1])
      return 0
    })
    tensor([2]) // may reuse its slot
    expect(() => escaped!.item()).toThrow(/was freed/)
    expect(() => escaped!.add(1)).toThrow(/was freed/)
    const t = tensor([1])
    t.free()
    expect(() => t.free()).toThrow(/was freed/)
  })

  it("reject asynchronous bodies", () => {
    expect(() => scoped(async () => 1)).toThrow(/needs a synchronous function/)
  })
})

describe.skipIf(!gpu)("on the GPU", () => {
  it("tensors compute like on the CPU", () => {
    const a = tensor(
      [
        [1, 2],
        [3, 4]
      ],
      { device: "cuda" }
    )
    expect(a.device).toBe("cuda")
    expect(a.matmul(a).to({ device: "cpu" }).toNumbers()).toEqual([7, 10, 15, 22])
    expect(a.to({ dtype: "bfloat16" }).add(1).toNumbers()).toEqual([2, 3, 4, 5])
  })
})
