import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { schemaIssues } from "../../schemas/schema-issues.ts"

const Config = Schema.Struct({
  steps: Schema.Number.check(Schema.isGreaterThanOrEqualTo(1)),
  sft: Schema.Struct({ rates: Schema.Array(Schema.Number) })
})

const issuesOf = (input: unknown): string =>
  schemaIssues(
    Effect.runSync(Effect.flip(Schema.decodeUnknownEffect(Config, { errors: "all", onExcessProperty: "error", reportInput: true })(input)))
      .message
  )

describe("the issues of a schema error", () => {
  it("come after their fields, on one line", () => {
    expect(issuesOf({ steps: 0, sft: { rates: [1, "z"] } })).toBe(
      'steps: expected a value greater than or equal to 1, got 0; sft.rates[1]: expected number, got "z"'
    )
    expect(issuesOf({ steps: 1 })).toBe("sft: missing key")
  })

  it("have no field if they are about the whole value", () => {
    expect(issuesOf(3)).toBe("Expected object, got 3")
  })
})
