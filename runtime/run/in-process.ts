/** Running a stage in this process: for those that move data. */
import * as Effect from "effect/Effect"
import type { StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import { changedSinceLoaded } from "../key/code-identity.ts"
import { type Execute, timedOut } from "./execute.ts"
import { runStage } from "./run-stage.ts"

export const inProcess: Execute = ({ stage, job, code, limits, onProgress }) => {
  const work = Effect.suspend(() => {
    const files = changedSinceLoaded(code, stage)
    return files.length === 0 ? runStage(stage, job, onProgress) : Effect.fail(loadedBefore(stage, files))
  })
  const seconds = limits?.seconds
  return seconds === undefined ? work : Effect.raceFirst(work, Effect.delay(timedOut(stage, seconds), seconds * 1000))
}

const loadedBefore = (stage: StageInfo, files: ReadonlyArray<string>): StageError =>
  new StageError({
    reason: "CodeChanged",
    message: `The code of stage ${stage.name} changed since this process loaded it (${files.join(", ")}). What is finished is kept: start it again to go on with the new code.`
  })
