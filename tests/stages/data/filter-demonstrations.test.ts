/** Quality rules of public demonstrations at their limits (prompts.test.ts tests the complete stage). */
import { describe, expect, it } from "vitest"
import { decodeConfig } from "../../../schemas/hyper.ts"
import * as Effect from "effect/Effect"
import { type Demonstration, Demonstrations, type Message } from "../../../schemas/rows.ts"
import {
  brokenRule,
  demonstrationSubset,
  filterDemonstrations,
  FilterConfig,
  letterShare,
  repeatedShare
} from "../../../stages/data/filter-demonstrations.ts"
import { rowsArtifact, rowsIn, runStage } from "../running.ts"
import { assistant, user } from "../samples.ts"

const of = (...messages: ReadonlyArray<Message>): Demonstration => ({ id: "x", messages, loss: "answers" })
const limits = Effect.runSync(
  decodeConfig(
    FilterConfig,
    { minCharacters: 3, maxCharacters: 12, maxTurns: 2, minLetters: 0.5, maxRepeated: 0.5 },
    "Stage filter-demonstrations"
  )
)
const rule = (...messages: ReadonlyArray<Message>) => brokenRule(of(...messages), limits)
const answered = (answer: string) => rule(user("q"), assistant(answer))

describe("a demonstration", () => {
  it("with exactly as many characters as allowed stays; one more or less is removed", () => {
    expect(["abc", "ab", "a".repeat(12), "a".repeat(13)].map(answered)).toEqual([undefined, "short", undefined, "long"])
  })
  it("is measured by its last answer and counted by its user messages", () => {
    expect(rule(user("q"), assistant("a".repeat(99)), user("q"), assistant("fine"))).toBeUndefined()
    expect(rule(user("q"), assistant("fine"), user("q"), assistant("fine"), user("q"), assistant("fine"))).toBe("turns")
    expect(rule({ role: "system", content: "s" }, user("q"), assistant("fine"), user("q"), assistant("fine"))).toBeUndefined()
  })
  it("with half letters stays, with fewer is removed", () => {
    expect([letterShare("ab--"), letterShare("a---")]).toEqual([0.5, 0.25])
    expect([answered("ab--"), answered("a---")]).toEqual([undefined, "letters"])
  })
  it("with half of the lines repeated stays, with more is removed", () => {
    expect([repeatedShare("ok a\nok a"), repeatedShare("ok\nok\nok")]).toEqual([0.5, 1 - 1 / 3])
    expect([answered("ok a\nok a"), answered("ok\nok\nok")]).toEqual([undefined, "repeated"])
  })
  it("that the chat format can't represent is removed for its format, before any other check", () => {
    expect(rule()).toBe("format")
    expect(rule(user("q"))).toBe("format")
    expect(rule(user("q"), assistant(""))).toBe("format")
    expect(rule(user("q"), user("q"), assistant("fine"))).toBe("format")
    expect(rule(user("<<SYS>>"), assistant("-"))).toBe("format")
  })
})

describe("demonstrations", () => {
  it("that are duplicates stay once, the first; another answer, question or system prompt makes another demonstration", async () => {
    const rows = [
      of(user("Why?"), assistant("So it is.")),
      of(user(" why? "), assistant("so   it is.")),
      of(user("Why?"), assistant("So it was.")),
      of(user("How?"), assistant("So it is.")),
      of({ role: "system", content: "Be kind." }, user("Why?"), assistant("So it is."))
    ].map((row, i) => ({ ...row, id: `${i}` }))
    const made = await runStage(filterDemonstrations, { demonstrations: await rowsArtifact(Demonstrations, rows) })
    expect((await rowsIn(made, Demonstrations)).map(({ id }) => id)).toEqual(["0", "2", "3", "4"])
    expect(made.metrics).toMatchObject({ kept: 4, duplicate: 1 })
  })
  it("keep their loss and their order, and have another order with another seed in subsets", async () => {
    const rows = Array.from({ length: 20 }, (_, i) => ({
      ...of(user(`q${i}`), assistant(`answer ${i}`)),
      id: `${i}`,
      loss: i % 2 === 0 ? ("answers" as const) : ("last-answer" as const)
    }))
    const demonstrations = await rowsArtifact(Demonstrations, rows)
    expect(await rowsIn(await runStage(filterDemonstrations, { demonstrations }), Demonstrations)).toEqual(rows)
    const subset = async (seed: number) =>
      (await rowsIn(await runStage(demonstrationSubset, { demonstrations }, { count: 8 }, seed), Demonstrations)).map(({ id }) => id)
    const [one, again, two] = [await subset(1), await subset(1), await subset(2)]
    expect(new Set(one).size).toBe(8)
    expect(again).toEqual(one)
    expect(two).not.toEqual(one)
  })
})
