import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { decodeConfig, describeConfig, hyper, hyperInfo, hyperInt, neutral } from "../../schemas/hyper.ts"

const Config = Schema.Struct({
  learningRate: hyper(2e-5, "§3.1: 2e-5", { min: 0, max: 1 }),
  epochs: hyperInt(2, "§3.1: 2 epochs", { min: 1 }),
  margin: hyper("small", "table 27", ["none", "small", "large"]),
  shuffle: hyper(true, "order of rows"),
  label: hyper("", "a name"),
  batchRows: neutral(hyperInt(8, "rows at once"), "the sum is the same")
})
const decode = (input: unknown) => Effect.runSync(decodeConfig(Config, input, "Stage sft"))
const errorOf = (input: unknown) => Effect.runSync(Effect.flip(decodeConfig(Config, input, "Stage sft"))).message

describe("a config", () => {
  it("uses every default", () => {
    expect(decode({})).toEqual({ learningRate: 2e-5, epochs: 2, margin: "small", shuffle: true, label: "", batchRows: 8 })
  })

  it("uses given values", () => {
    expect(decode({ learningRate: 0.5, margin: "large", shuffle: false })).toMatchObject({
      learningRate: 0.5,
      margin: "large",
      shuffle: false
    })
  })

  it("rejects unknown fields, and names the nearest", () => {
    expect(errorOf({ learningrate: 1 })).toBe('Stage sft has no field "learningrate". Did you mean "learningRate"?')
    expect(errorOf({ xyz: 1 })).toMatch(/Available: learningRate, epochs, /)
    expect(errorOf({ toString: 1 })).toMatch(/no field "toString"/)
  })

  it("reports all errors together, each with its field", () => {
    const message = errorOf({ learningRate: 2, epochs: 1.5, margin: "huge", shuffle: "yes", label: null })
    for (const name of ["learningRate", "epochs", "margin", "shuffle", "label"]) expect(message).toContain(name)
    expect(message).not.toContain("\n")
  })

  it("checks its bounds, and rejects values that are not numbers", () => {
    for (const learningRate of [-1e-9, 1.1, NaN, Infinity, "1", null]) expect(errorOf({ learningRate })).toContain("learningRate")
    expect(errorOf({ epochs: 0 })).toContain("epochs")
  })

  it("describes its fields in order, with defaults", () => {
    const described = describeConfig(Config)
    expect(described.map(({ name }) => name)).toEqual(["learningRate", "epochs", "margin", "shuffle", "label", "batchRows"])
    expect(described[0]).toEqual({ name: "learningRate", default: 2e-5, description: "§3.1: 2e-5", type: "number", min: 0, max: 1 })
  })

  it("says which fields can't change the result, and why", () => {
    expect(hyperInfo(Config.fields.batchRows)?.neutral).toBe("the sum is the same")
    expect(hyperInfo(Config.fields.epochs)?.neutral).toBeUndefined()
    expect(() => neutral(Schema.String, "no")).toThrow(/made by hyper/)
  })
})

describe("didYouMean", () => {
  it("counts insertions, deletions, substitutions and swaps of neighbours as one", () => {
    const nearest = (word: string, ...candidates: ReadonlyArray<string>) => / "(.*)"\?$/.exec(didYouMean(word, candidates))?.[1]
    // Each is one edit from the first candidate and two from the second.
    expect(nearest("epocs", "epochs", "epo")).toBe("epochs")
    expect(nearest("epocchs", "epochs", "epocchsss")).toBe("epochs")
    expect(nearest("epoxhs", "epochs", "epoxhsss")).toBe("epochs")
    expect(nearest("epcohs", "epochs", "epcohsss")).toBe("epochs")
    // kitten to sitting are three: the maximum for a word of nine letters, and too many for one of eight.
    expect(nearest("kitten123", "sitting123")).toBe("sitting123")
    expect(nearest("kitten12", "sitting12")).toBeUndefined()
  })

  it("suggests nothing that is too different", () => {
    expect(didYouMean("lerning", ["learning", "rate"])).toBe(' Did you mean "learning"?')
    expect(didYouMean("zzz", ["learning", "rate"])).toBe(" Available: learning, rate.")
    expect(didYouMean("zzz", [])).toBe("")
  })

  it("lists no candidates when there are more than allowed", () => {
    expect(didYouMean("zzz", ["learning", "rate"], 2)).toBe(" Available: learning, rate.")
    expect(didYouMean("zzz", ["learning", "rate"], 1)).toBe("")
    expect(didYouMean("lerning", ["learning", "rate"], 1)).toBe(' Did you mean "learning"?')
  })
})
