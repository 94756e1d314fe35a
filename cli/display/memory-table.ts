/** The estimated GPU memory and disk use of a plan's stages, and how their steps are split, as text. */
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

/** The memory per stage, as lines, then the stages that do not fit. */
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
    `Memory on ${accelerator.name} (${gib(accelerator.memory)}, usable: ${gib(usableMemory(accelerator.memory))}):`,
    ...table([head, ...rows], "  "),
    ...(none.length === 0 ? [] : ["Stages that do not fit:", ...none.map((line) => `  ${line}`)])
  ]
}

/** The disk space that a run needs, as lines; `free` bytes are available on the store's disk. */
export const diskLines = (cost: PlanCost, free: number | undefined): ReadonlyArray<string> => {
  const { artifacts, resume, total } = diskOf(cost)
  if (total === 0) return []
  const made = [...cost.artifacts].filter(([, bytes]) => !Number.isNaN(bytes))
  const [largest] = [...cost.nodes]
    .flatMap(([id, one]) => (isKnown(one) && one.resume > 0 ? [{ id, bytes: one.resume }] : []))
    .toSorted((a, b) => b.bytes - a.bytes)
  const isShort = free !== undefined && total > free
  return [
    `Disk: ${size(artifacts)} for ${made.length} checkpoints (datasets and reports are small in comparison)${
      largest === undefined
        ? ""
        : `, plus up to ${size(resume)} of resume checkpoints while ${largest.id} runs (${resumeCopies} x ${size(largest.bytes)}: two are kept while the next is written)`
    }${free === undefined ? "." : `; ${size(free)} free.`}`,
    ...(isShort && free > artifacts
      ? [
          "  That exceeds the free space. A resume checkpoint that does not fit is skipped with a note; --checkpoint-seconds 1000000000 writes none."
        ]
      : isShort
        ? ["  That exceeds the free space: set CARAVAN_HOME to a folder on another disk."]
        : [])
  ]
}
