/** Whether what a run would compute fits the GPU that it is to run on: told before anything runs. */
import * as Effect from "effect/Effect"
import { usableMemory } from "../models/memory.ts"
import { PipelineError } from "../runtime/errors.ts"
import { isKnown, type PlanCost } from "./cost.ts"
import { few, gib } from "./display/units.ts"

/** What does not fit, and what would: a line for all stages that are told the same. */
export const misfits = ({ machine: { accelerator }, nodes }: PlanCost): ReadonlyArray<string> => {
  const found = [...nodes].flatMap(([id, cost]) =>
    isKnown(cost) && !cost.fits ? [{ id, total: cost.memory.total, advice: cost.advice ?? "" }] : []
  )
  return [...Map.groupBy(found, ({ advice }) => advice)].map(([advice, alike]) => {
    const most = gib(Math.max(...alike.map(({ total }) => total)))
    const takes = alike.length === 1 ? `would take ${most}` : `would take up to ${most} each`
    return `${few(alike.map(({ id }) => id))} ${takes}; of ${accelerator.name} tensors may take ${gib(usableMemory(accelerator.memory))}. ${advice}`
  })
}

/** Fails where stages do not fit. */
export const checkFit = (cost: PlanCost): Effect.Effect<void, PipelineError> => {
  const lines = misfits(cost)
  if (lines.length === 0) return Effect.void
  const all = [
    "Not everything fits the GPU, so nothing was run:",
    ...lines.map((line) => `  ${line}`),
    "To try it all the same: --no-fit-check, with microBatchSize (microBatchPairs) given as a number."
  ]
  return Effect.fail(new PipelineError({ message: all.join("\n") }))
}
