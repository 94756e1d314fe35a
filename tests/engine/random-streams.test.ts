/** Random numbers for many purposes under one seed: no two streams are equal or correlated, and shuffles favour no order. */
import { describe, expect, it } from "vitest"
import { deriveSeed, Random } from "../../engine/random.ts"

/** The correlation of two lists; for n independent pairs it is 0, give or take 1 / sqrt(n). */
const correlation = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number => {
  const mean = (x: ReadonlyArray<number>) => x.reduce((sum, one) => sum + one, 0) / x.length
  const [ma, mb] = [mean(a), mean(b)]
  const product = (x: ReadonlyArray<number>, mx: number, y: ReadonlyArray<number>, my: number) =>
    x.reduce((sum, one, i) => sum + (one - mx) * (y[i]! - my), 0)
  return product(a, ma, b, mb) / Math.sqrt(product(a, ma, a, ma) * product(b, mb, b, mb))
}

describe("seeds of 54,000 purposes", () => {
  // Each stage's own words, with prompt, sample, turn and iteration as counted there. Among 2^48 seeds, 54,000 collide with a probability of 5e-6.
  const count = 30
  const numbers = Array.from({ length: count }, (_, i) => i)
  const purposes = numbers.flatMap((i) =>
    numbers.flatMap((j) => [
      ...[1, 2].flatMap((seed) => [
        ...Array.from({ length: 12 }, (_, k) => [seed, "sample", `${i}-${k}`, j] as const),
        ...Array.from({ length: 12 }, (_, k) => [seed, "ghost", "every turn", `${i}-${k}`, j] as const)
      ]),
      ...Array.from({ length: 12 }, (_, k) => [3, "ppo", "rollout", 12 * i + k, j] as const)
    ])
  )
  it("are 54,000 different seeds", () => {
    expect(purposes.length).toBe(54_000)
    expect(new Set(purposes.map(([seed, ...purpose]) => deriveSeed(seed, ...purpose))).size).toBe(54_000)
  })
})

describe("streams of neighbouring purposes", () => {
  const n = 4000
  const first = (make: (i: number) => Random, draw = 0) =>
    Array.from({ length: n }, (_, i) => {
      const random = make(i)
      for (let skipped = 0; skipped < draw; skipped++) random.next()
      return random.next()
    })
  const streams: Readonly<Record<string, (i: number) => Random>> = {
    "a prompt's sample": (i) => new Random(deriveSeed(1, "sample", "p", i), "sampling"),
    "the next sample": (i) => new Random(deriveSeed(1, "sample", "p", i + 1), "sampling"),
    "another prompt's sample": (i) => new Random(deriveSeed(1, "sample", "q", i), "sampling"),
    "the sample under the next seed": (i) => new Random(deriveSeed(2, "sample", "p", i), "sampling"),
    "a rollout": (i) => new Random(deriveSeed(1, "ppo", "rollout", 1, i), "sampling"),
    "the next iteration's": (i) => new Random(deriveSeed(1, "ppo", "rollout", 2, i), "sampling"),
    "an epoch's permutation": (i) => new Random(1, "sft", "epoch", i)
  }
  const pairs = Object.keys(streams).flatMap((a, i) =>
    Object.keys(streams)
      .slice(i + 1)
      .map((b) => [a, b] as const)
  )
  const drawn = Object.fromEntries(Object.entries(streams).map(([name, make]) => [name, [first(make), first(make, 1)] as const]))
  const bound = 4 / Math.sqrt(n)
  it.each(pairs)("do not correlate: %s and %s", (a, b) => {
    expect(Math.abs(correlation(drawn[a]![0], drawn[b]![0]))).toBeLessThan(bound)
    expect(Math.abs(correlation(drawn[a]![0], drawn[b]![1]))).toBeLessThan(bound)
  })
  it.each(Object.keys(streams))(
    "do not correlate with themselves: %s, its first and second number, and with the first of the next stream",
    (name) => {
      const [one, two] = drawn[name]!
      expect(Math.abs(correlation(one, two))).toBeLessThan(bound)
      expect(Math.abs(correlation(one.slice(1), one.slice(0, -1)))).toBeLessThan(bound)
    }
  )
})

describe("a shuffle of four", () => {
  const orders = 24
  const trials = 24_000
  /** Pearson's chi-square of the frequencies of the 24 orders: 23 degrees of freedom, above 49.7 once in a thousand seeds. */
  const chiSquare = (order: (trial: number) => ReadonlyArray<number>): number => {
    const counts = new Map<string, number>()
    for (let trial = 0; trial < trials; trial++) {
      const name = order(trial).join("")
      counts.set(name, (counts.get(name) ?? 0) + 1)
    }
    expect(counts.size).toBe(orders)
    const expected = trials / orders
    return [...counts.values()].reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0)
  }
  it("gives all orders equally often, for successive shuffles of one stream", () => {
    const random = new Random(1, "orders")
    expect(chiSquare(() => random.shuffle([0, 1, 2, 3]))).toBeLessThan(49.7)
  })
  it("gives all orders equally often, for the first shuffle of each epoch's stream", () => {
    expect(chiSquare((epoch) => new Random(1, "sft", "epoch", epoch).shuffle([0, 1, 2, 3]))).toBeLessThan(49.7)
  })
})

describe("integers below a bound", () => {
  it("are uniform even if the bound is not a power of two, such as three quarters of 2^32", () => {
    // With the remainder of 32 bits, the lower third would occur twice as often: half of all. 2,000 draws: three deviations are 63.
    const random = new Random(1, "int")
    const bound = 3 * 2 ** 30
    const lower = Array.from({ length: 2000 }, () => random.int(bound)).filter((x) => x < bound / 3).length
    expect(Math.abs(lower - 2000 / 3)).toBeLessThan(64)
  })
})
