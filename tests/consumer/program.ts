import { engineNumerics, findHome, prepareModule, run } from "caravan"
import * as Effect from "effect/Effect"
import pipeline from "./pipeline.ts"

const home = findHome(process.cwd())
const program = run(pipeline, {}, { home, prepare: prepareModule }).pipe(Effect.provide(engineNumerics(home)))

process.stdout.write(JSON.stringify(await Effect.runPromise(program)))
