/** From examples to rows, and the loss over them. */
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { type Device, type DType, noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { initLlama } from "../../../models/llama.ts"
import { packedBatches } from "../../../stages/training/sft.ts"
import { chunks, type Example, languageModelLoss, lossTokens, type PackedRow } from "../../../stages/common/sequences.ts"
import { devices } from "../../devices.ts"
import { largestDifference, smallConfig, smallTokenizer } from "../../models/small.ts"
import { sharpen } from "../../models/tensors.ts"
import { float64, sameInFloat32 } from "../../tolerances.ts"
import { joinDocuments, packExamples } from "../encoded.ts"

const padId = 0
/** Examples of 2 .. `longest` tokens, each half prompt and half answer; even their first tokens request loss. */
const draw = (count: number, longest: number, seed: number): Array<Example> => {
  const random = new Random(seed, "test examples")
  return Array.from({ length: count }, () => {
    const size = 2 + random.int(longest - 1)
    return {
      tokens: Array.from({ length: size }, () => 3 + random.int(58)),
      lossMask: Array.from({ length: size }, (_, i) => i === 0 || i >= size / 2)
    }
  })
}

/** The examples in a row, read from its segments. */
const unpack = (row: PackedRow) => {
  const out: Array<{ tokens: Array<number>; loss: Array<number> }> = []
  row.segments.forEach((segment, i) => {
    if (segment < 0) return
    // A segment is one run: it never continues after another has begun.
    expect(segment === out.length || segment === out.length - 1).toBe(true)
    if (segment === out.length) out.push({ tokens: [], loss: [] })
    out[segment]!.tokens.push(row.tokens[i]!)
    out[segment]!.loss.push(row.lossMask[i]!)
  })
  return out
}
const sorted = (items: ReadonlyArray<unknown>) => items.map((item) => JSON.stringify(item)).sort()

describe("packing", () => {
  const length = 24
  it.each([
    ["many rows open", 32],
    ["one row open", 1]
  ])("loses nothing and never splits an example across rows, with %s", (_, openRows) => {
    const examples = draw(300, length, 1)
    const rows = packExamples(examples, { length, padId, openRows })
    const wanted = examples.map(({ tokens, lossMask }) => ({ tokens, loss: lossMask.map((on, i) => (on && i > 0 ? 1 : 0)) }))
    expect(sorted(rows.flatMap(unpack))).toEqual(sorted(wanted))
    for (const row of rows) expect([row.tokens.length, row.lossMask.length, row.segments.length]).toEqual([length, length, length])
  })
  it("never gives loss to an example's first token, nor to padding", () => {
    const rows = packExamples(draw(100, length, 2), { length, padId })
    const at = (wanted: (row: PackedRow, i: number) => boolean) =>
      rows.flatMap((row) => [...row.tokens.keys()].filter((i) => wanted(row, i)).map((i) => [row.tokens[i], row.lossMask[i]]))
    const padding = at((row, i) => row.segments[i] === -1)
    const firsts = at((row, i) => row.segments[i]! >= 0 && row.segments[i - 1] !== row.segments[i])
    expect(firsts).toHaveLength(100)
    expect(new Set(firsts.map(([, loss]) => loss))).toEqual(new Set([0]))
    expect(new Set(padding.map(String))).toEqual(new Set([`${padId},0`]))
  })
  it("fills rows: an example goes into the first row with enough space", () => {
    const sized = (size: number): Example => ({ tokens: Array<number>(size).fill(size), lossMask: Array<boolean>(size).fill(true) })
    const rows = packExamples([6, 7, 4, 3].map(sized), { length: 10, padId })
    expect(rows.map((row) => [...row.tokens])).toEqual([
      [6, 6, 6, 6, 6, 6, 4, 4, 4, 4],
      [7, 7, 7, 7, 7, 7, 7, 3, 3, 3]
    ])
    expect([...rows[1]!.segments]).toEqual([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    expect(lossTokens(rows)).toBe(5 + 3 + 6 + 2)
  })
  it("keeps the beginning of an example longer than a row, and leaves out examples without anything to predict", () => {
    const rows = packExamples(
      [
        { tokens: [9], lossMask: [true] },
        { tokens: [1, 2, 3, 4, 5], lossMask: [false, true, true, true, true] }
      ],
      { length: 3, padId }
    )
    expect(rows.map(unpack)).toEqual([[{ tokens: [1, 2, 3], loss: [0, 1, 1] }]])
  })
  it("gives no rows without examples", () => {
    expect(packExamples([], { length: 3, padId })).toEqual([])
  })
})

/** Attention between examples matters. */
const model = (device: Device, dtype: DType = "float32") => sharpen(initLlama(smallConfig(), { seed: 5, device, dtype }), 10)
const length = 40
const examples = draw(24, 18, 3)
const packed = packExamples(examples, { length, padId })
const alone = examples.flatMap((example) => packExamples([example], { length: example.tokens.length, padId }))

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`the loss of packed rows on ${device}`, () => {
    const llama = skip ? undefined! : model(device)
    const loss = (rows: ReadonlyArray<PackedRow>, isolate = true) =>
      scoped(() => noGrad(() => languageModelLoss(llama, rows, { device, isolate }).item()))
    /** A mean per token: sums over hundreds of tokens would need a separate tolerance. */
    const mean = (rows: ReadonlyArray<PackedRow>) => loss(rows) / lossTokens(packed)
    const difference = (a: number, b: number) => Math.abs(a - b)

    it("equals that of the examples, each alone and without padding", () => {
      expect(packed.length).toBeLessThan(examples.length / 2) // so rows do contain several
      const apart = alone.reduce((sum, row) => sum + mean([row]), 0)
      expect(difference(mean(packed), apart)).toBeLessThanOrEqual(sameInFloat32)
    })
    it("differs from that of examples that attend to each other", () => {
      expect(difference(loss(packed, false), loss(packed)) / lossTokens(packed)).toBeGreaterThan(0.05)
    })
    it("is minus the log-probability of the answers' tokens and no others, summed here in float64", () => {
      const wanted = examples.reduce((total, { tokens, lossMask }) => {
        const logits = scoped(() => noGrad(() => llama.forward(tensor([tokens], { dtype: "int64", device })).toNumbers()))
        const vocab = llama.config.vocabSize
        return tokens.reduce((sum, token, i) => {
          if (i === 0 || !lossMask[i]) return sum
          const row = logits.slice((i - 1) * vocab, i * vocab)
          return sum + Math.log(row.reduce((z, x) => z + Math.exp(x), 0)) - row[token]!
        }, total)
      }, 0)
      expect(difference(mean(packed), wanted / lossTokens(packed))).toBeLessThanOrEqual(sameInFloat32)
    })
    it("does not depend on how a batch is split into parts", () => {
      for (const size of [1, 2, 3]) {
        const apart = chunks(packed, size).reduce((sum, part) => sum + mean(part), 0)
        expect(difference(apart, mean(packed))).toBeLessThanOrEqual(sameInFloat32)
      }
    })
    it("does not change with arbitrary padding, nor with tokens after an example's last answer", () => {
      const tailed = packExamples(
        examples.map(({ tokens, lossMask }) => ({ tokens: [...tokens, 4, 4], lossMask: [...lossMask, false, false] })),
        { length, padId }
      )
      const garbage = tailed.map((row) => {
        const tokens = row.tokens.slice()
        for (let i = 0; i < length; i++) {
          const tail = row.segments[i] !== row.segments[i + 1] || row.segments[i] !== row.segments[i + 2]
          if (row.segments[i] === -1 || tail) tokens[i] = 3 + ((7 * i) % 50)
        }
        return { ...row, tokens }
      })
      expect(garbage).not.toEqual(tailed)
      expect(loss(garbage)).toBe(loss(tailed))
    })
    it("of a part without loss tokens is 0, and so is its gradient", () => {
      const silent = packed.slice(0, 1).map((row) => ({ ...row, lossMask: new Uint8Array(length) }))
      const gradient = scoped(() => {
        const loss = languageModelLoss(llama, silent, { device, isolate: true })
        expect(loss.item()).toBe(0)
        loss.backward()
        return llama.parameter("model.embed_tokens.weight").grad()!.toNumbers()
      })
      expect(gradient.every((g) => g === 0)).toBe(true)
    })
  })
}

describe("the loss of packed rows in float64", () => {
  it("and its gradients equal the examples' own", () => {
    const gradients = (rows: ReadonlyArray<ReadonlyArray<PackedRow>>) => {
      const llama = model("cpu", "float64")
      return scoped(() => {
        let total = 0
        for (const part of rows) {
          const loss = languageModelLoss(llama, part, { device: "cpu", isolate: true })
          loss.backward()
          total += loss.item()
        }
        return [total, ...Object.values(llama.parameters).flatMap((parameter) => parameter.grad()!.toNumbers())]
      })
    }
    const apart = gradients(alone.map((row) => [row]))
    expect(largestDifference(gradients([packed]), apart)).toBeLessThanOrEqual(float64)
  })
})

describe("batches of packed rows", () => {
  it("contain each epoch's rows in order, count the tokens with loss, and never end", () => {
    const epochs = [packed, packed.toReversed()]
    const seen: Array<ReadonlyArray<PackedRow>> = []
    const batches = packedBatches(
      (epoch) => epochs[epoch % 2]!,
      { batchSize: packed.length },
      (part) => {
        seen.push(part)
        return undefined!
      }
    )
    for (let step = 0; step < 4; step++) {
      const batch = batches.next().value!
      for (const part of batch.parts({ rows: 2 })) part()
      expect(seen.splice(0).flat()).toEqual(epochs[step % 2])
      expect(batch.count).toBe(lossTokens(packed))
      expect(batch.tokens).toBe(packed.length * length)
    }
  })
})

describe("documents for pretraining", () => {
  const tokenizer = smallTokenizer()
  const texts = ["ab abab", "ba", "zq ab", "ab ab ab ab"]
  const stream = texts.flatMap((text) => [tokenizer.bosId, ...tokenizer.encode(text), tokenizer.eosId])

  it.each([2, 5, 8])("joined into rows of %i tokens predict every token except the first once, in order", (size) => {
    const rows = joinDocuments(tokenizer, texts, size)
    const predicted = rows.flatMap((row) => [...row.tokens].filter((_, i) => row.lossMask[i] === 1))
    expect(predicted).toEqual(stream.slice(1, 1 + rows.length * (size - 1)))
    // Only an incomplete last row is dropped.
    expect(stream.length - 1 - predicted.length).toBeLessThan(size - 1)
    rows.forEach((row, i) => expect(row.tokens[0]).toBe(stream[i * (size - 1)]))
  })
  it("selected by name are joined as if there were no others", () => {
    for (const which of [[1, 3], [0, 2, 3], [3], []])
      expect(joinDocuments(tokenizer, texts, 5, which)).toEqual(
        joinDocuments(
          tokenizer,
          which.map((i) => texts[i]!),
          5
        )
      )
  })
  it("that fill exactly one row make one row", () => {
    expect(joinDocuments(tokenizer, texts, stream.length)).toHaveLength(1)
    expect(joinDocuments(tokenizer, texts, stream.length + 1)).toHaveLength(0)
  })
})
