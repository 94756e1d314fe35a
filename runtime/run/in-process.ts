/** Runs a stage in this process, without limits: for stages that request it (`resources: { inProcess: true }`). */
import * as Effect from "effect/Effect"
import type { StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import { changedSinceLoaded } from "../key/code-identity.ts"
import type { Execute } from "./execute.ts"
import { runStage } from "./run-stage.ts"

export const inProcess: Execute = ({ stage, job, code, onProgress }) =>
  Effect.suspend(() => {
    const files = changedSinceLoaded(code, stage)
    return files.length === 0 ? runStage(stage, job, onProgress) : Effect.fail(loadedBefore(stage, files))
  })

const loadedBefore = (stage: StageInfo, files: ReadonlyArray<string>): StageError =>
  new StageError({
    reason: "CodeChanged",
    message: `The code of stage ${stage.name} changed since this process loaded it (${files.join(", ")}). Finished results are kept: restart the program to continue with the new code.`,
    isRetryable: false
  })
