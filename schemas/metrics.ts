import * as Schema from "effect/Schema"

/** A mean with its 95% interval. */
export const EstimateSchema = Schema.Struct({ mean: Schema.Number, low: Schema.Number, high: Schema.Number })
