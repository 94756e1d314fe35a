/** Checks, before anything runs, whether the run's stages fit on the GPU. */
import * as Effect from "effect/Effect"
import { usableMemory } from "../models/memory.ts"
import { PipelineError } from "../runtime/errors.ts"
import { isKnown, type PlanCost } from "./cost.ts"
import { few, gib } from "./display/units.ts"

/** Stages that do not fit, with advice: one line per distinct advice. */
export const misfits = ({ machine: { accelerator }, nodes }: PlanCost): ReadonlyArray<string> => {
  const found = [...nodes].flatMap(([id, cost]) =>
    isKnown(cost) && !cost.fits ? [{ id, total: cost.memory.total, advice: cost.advice ?? "" }] : []
  )
  return [...Map.groupBy(found, ({ advice }) => advice)].map(([advice, alike]) => {
    const most = gib(Math.max(...alike.map(({ total }) => total)))
    const takes = alike.length === 1 ? `needs ${most}` : `need up to ${most} each`
    return `${few(alike.map(({ id }) => id))} ${takes}; ${gib(usableMemory(accelerator.memory))} of ${accelerator.name} is usable. ${advice}`
  })
}

/** Fails if a stage does not fit. */
export const checkFit = (cost: PlanCost): Effect.Effect<void, PipelineError> => {
  const lines = misfits(cost)
  if (lines.length === 0) return Effect.void
  const all = [
    "Some stages do not fit on the GPU, so nothing was run:",
    ...lines.map((line) => `  ${line}`),
    "To run anyway, use --no-fit-check and set microBatchSize (microBatchPairs) to a number."
  ]
  return Effect.fail(new PipelineError({ message: all.join("\n") }))
}
