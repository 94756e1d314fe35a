import { fileAt, hyper, Pipeline } from "caravan"
import * as Schema from "effect/Schema"
import { norms } from "./norms.ts"

const params = Schema.Struct({ numbers: hyper("numbers.json", "a JSON array of numbers") })

export default Pipeline.make("norms", { description: "a stage of the user's own", params }, ({ numbers }) => ({
  norms: norms({ numbers: fileAt(numbers) })
}))
