/** PPO's curves as a report (Llama 2 §3.2.3): what the stage ppo recorded beside its checkpoint, iteration by iteration. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { PpoDiagnostics, readRecord } from "./record.ts"

export { PpoDiagnostics, PpoEvaluation, PpoIteration, PpoSample } from "./record.ts"

export const PpoDiagnosticsReport = report(PpoDiagnostics, "ppo-diagnostics/1")

export const ppoDiagnostics = Stage.make("ppo-diagnostics", {
  description: "§3.2.3 PPO's rewards, KL, losses and sample texts by iteration, read out of its checkpoint",
  config: Schema.Struct({}),
  inputs: { policy: Policy },
  output: PpoDiagnosticsReport,
  seeded: false,
  run: Effect.fn("ppo-diagnostics")(function* ({ inputs, output }) {
    return yield* writeReport(output, yield* readRecord(inputs.policy.path))
  })
})
