/** What a plan's stages would take of a GPU's memory and of the disk, and how their steps are cut, for people. */
import { memoryParts, usableMemory } from "../../models/memory.ts"
import type { PlannedStep } from "../../stages/common/cost/work.ts"
import { diskOf, isKnown, type PlanCost, resumeCopies } from "../cost.ts"
import { misfits } from "../fit-check.ts"
import { gib, size, table } from "./units.ts"

const cutOf = (step: PlannedStep | null): ReadonlyArray<string> => {
  if (step === null) return ["", ""]
  const { blocks, microBatch, recompute } = step
  return ["rows" in microBatch ? `${microBatch.rows} rows` : `${microBatch.tokens} tokens`, `${recompute} of ${blocks}`]
}

/** The memory, stage by stage, as lines; then what does not fit. */
export const memoryTable = (cost: PlanCost): ReadonlyArray<string> => {
  const { accelerator } = cost.machine
  const rows = [...cost.nodes].flatMap(([id, one]) => {
    if (!isKnown(one)) return []
    const parts = memoryParts.map((part) => (one.memory[part] === 0 ? "-" : gib(one.memory[part])))
    return [[id, ...parts, gib(one.memory.total), one.fits ? "yes" : `no: ${one.gpus} GPUs`, ...cutOf(one.step)]]
  })
  if (rows.length === 0) return []
  const head = ["stage", ...memoryParts, "peak", "fits", "micro-batch", "recomputed blocks"]
  const none = misfits(cost)
  return [
    `Memory on ${accelerator.name} (${gib(accelerator.memory)}, of which tensors may take ${gib(usableMemory(accelerator.memory))}):`,
    ...table([head, ...rows], "  "),
    ...(none.length === 0 ? [] : ["What does not fit:", ...none.map((line) => `  ${line}`)])
  ]
}

/** The disk that a run takes, as lines; `free` bytes are left where the store is. */
export const diskLines = (cost: PlanCost, free: number | undefined): ReadonlyArray<string> => {
  const { artifacts, resume, total } = diskOf(cost)
  if (total === 0) return []
  const made = [...cost.artifacts].filter(([, bytes]) => !Number.isNaN(bytes))
  const [largest] = [...cost.nodes]
    .flatMap(([id, one]) => (isKnown(one) && one.resume > 0 ? [{ id, bytes: one.resume }] : []))
    .toSorted((a, b) => b.bytes - a.bytes)
  const isShort = free !== undefined && total > free
  return [
    `Disk: ${size(artifacts)} for ${made.length} checkpoints (datasets and reports are small beside them)${
      largest === undefined
        ? ""
        : `, and up to ${size(resume)} to resume from while ${largest.id} runs (${resumeCopies} x ${size(largest.bytes)}: two are kept while the next is written)`
    }${free === undefined ? "." : `; ${size(free)} are free.`}`,
    ...(isShort && free > artifacts
      ? [
          "  That is more than is free. A resume checkpoint that does not fit is left out with a note; --checkpoint-seconds 1000000000 writes none."
        ]
      : isShort
        ? ["  That is more than is free: name a folder on another disk in CARAVAN_HOME."]
        : [])
  ]
}
