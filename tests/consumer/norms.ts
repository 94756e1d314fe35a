import { readFileSync } from "node:fs"
import * as tf from "@tensorflow/tfjs"
import { External, hyper, report, Stage, writeReport } from "caravan"
import { scoped, tensor } from "caravan/engine"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { scale } from "./scale.ts"

export const Norms = report(Schema.Struct({ tensorflow: Schema.Number, libtorch: Schema.Number }), "norms/1")

export const norms = Stage.make("norms", {
  description: "the sum of powers of a file's numbers, once by TensorFlow.js and once by libtorch",
  config: Schema.Struct({ power: hyper(2, "to which power") }),
  inputs: { numbers: External },
  output: Norms,
  resources: { tensors: true },
  seeded: false,
  run: Effect.fn("norms")(function* ({ config, inputs, output }) {
    const numbers = (JSON.parse(readFileSync(inputs.numbers.path, "utf8")) as Array<number>).map(scale)
    const tensorflow = tf.tidy(() => tf.tensor1d(numbers).pow(config.power).sum().dataSync()[0]!)
    const libtorch = scoped(() => tensor(numbers, { dtype: "float64" }).pow(config.power).sum().item())
    return yield* writeReport(output, { tensorflow, libtorch })
  })
})
