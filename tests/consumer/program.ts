import { Caravan, readReport } from "caravan"
import * as Effect from "effect/Effect"
import { Norms } from "./norms.ts"
import pipeline from "./norms-pipeline.ts"

/** The run's result, with the type of the stage's output. */
const program = Effect.gen(function* () {
  const result = yield* Caravan.run(pipeline, {})
  const norms = result.outputs.norms && (yield* readReport(result.outputs.norms, Norms))
  return { ...result, read: norms?.libtorch }
})

process.stdout.write(JSON.stringify(await Effect.runPromise(program.pipe(Effect.provide(Caravan.layer())))))
