/** Symbols in a report, explained in the first section that has one. */
import { describe, expect, it } from "vitest"
import { notationOf } from "../../../stages/report/notation.ts"
import { pageOf } from "../../../stages/report/page.ts"

describe("the notation of a report", () => {
  it("explains each symbol that is used, once, and sigma with the scores", () => {
    const text = notationOf(["nothing", "the R_h of", "logit(R_c) and sigma, R_s"])!
    expect(text.first).toBe(1)
    for (const start of ["R_h and R_s are", "R_c is", "logit(p) ="]) expect(text.text.split(start)).toHaveLength(2)
    expect(text.text.match(/sigma\(x\)/g)).toHaveLength(1)
    expect(text.text).not.toContain("KL is")
    expect(notationOf(["sigma of the difference", "KL"])!.text).toMatch(/^sigma\(x\) = .* KL is/)
  })
  it("does not mention a safety reward model that the run does not have", () => {
    expect(notationOf(["R_h and R_c"])!.text).toBe(
      "R_h is the score of the helpfulness reward model, from 0 to 1: sigma of the model's output, where sigma(x) = 1 / (1 + exp(-x)). R_c is the score that tuning maximises; with one reward model, it is that model's score."
    )
    expect(notationOf(["R_c"])!.text).toMatch(/^R_c is the score that tuning maximises/)
  })
  it("explains nothing if there are no symbols, also not in longer words", () => {
    expect(notationOf(["a sigmaoid, KLM, R_human and R_cost"])).toBeUndefined()
    expect(notationOf([])).toBeUndefined()
  })
  it("is at the start of the first section with a symbol, and not caused by what models wrote", async () => {
    const table = (name: string) => ({ id: "accuracy" as const, title: "t", caption: "c", rows: [{ [name]: 1 }] })
    const page = (name: string) =>
      pageOf({
        title: "p",
        about: [],
        sections: [
          { title: "one", tables: [table("x")] },
          { title: "two", tables: [table(name)] }
        ],
        dialogues: "<p>R_h</p>"
      })
    expect(await page("R_h")).toContain("<h2>two</h2>\n<p>R_h is the score")
    expect(await page("y")).not.toContain("R_h is the score")
  })
})
