/** Values that several parts of the API contain. */
import * as Schema from "effect/Schema"

export const list = <S extends Schema.Constraint>(of: S) => Schema.Array(of)
export const RunId = Schema.String.check(Schema.isPattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/))
export const Digest = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))
export const Count = Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: 0, maximum: 1e12 }))
/** JSON has no NaN or infinity, so they are strings. */
export const AnyNumber = Schema.Union([Schema.Finite, Schema.String])
export const Metrics = Schema.Record(Schema.String, AnyNumber)

/** A setting or result that differs between two runs. */
export const Changed = Schema.Struct({ what: Schema.String, before: Schema.Unknown, after: Schema.Unknown })

/** A message of a dialogue. */
export const Message = Schema.Struct({ role: Schema.String, content: Schema.String })
