/** Diagnostics of RLOO and GRPO by iteration, stored with the checkpoint as `critic-free.json`; criticFreeDiagnostics turns them into a report. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { report } from "../../schemas/report.ts"
import { diagnosticsFields, diagnosticsFile, iterationFields } from "../ppo/diagnostics.ts"

export const CriticFreeIteration = Schema.Struct({
  ...iterationFields,
  /** Share of the groups whose responses all have the same score. */
  constantGroups: Schema.Finite
})
export const CriticFreeDiagnostics = Schema.Struct({ iterations: Schema.Array(CriticFreeIteration), ...diagnosticsFields })
export const criticFreeDiagnosticsFile = diagnosticsFile(CriticFreeDiagnostics, "critic-free.json", "rloo or grpo")

export const CriticFreeDiagnosticsReport = report(CriticFreeDiagnostics, "critic-free-diagnostics/1")

export const criticFreeDiagnostics = Stage.make("critic-free-diagnostics", {
  description: "RLOO's or GRPO's rewards, KL, losses and sample texts by iteration, read from its checkpoint",
  config: Schema.Struct({}),
  inputs: { policy: Policy },
  output: CriticFreeDiagnosticsReport,
  seeded: false,
  run: Effect.fn("critic-free-diagnostics")(function* ({ inputs, output }) {
    return yield* writeReport(output, yield* criticFreeDiagnosticsFile.read(inputs.policy.path))
  })
})
