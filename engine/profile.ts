/** GPU profiles: time per kernel, and the gaps between kernels. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { native } from "./native.ts"

/** One kernel, copy or fill on the GPU; microseconds. */
export interface GpuEvent {
  readonly name: string
  readonly start: number
  readonly duration: number
}
export interface KernelTime {
  readonly name: string
  readonly calls: number
  readonly microseconds: number
}
export interface GpuProfile {
  /** From the first kernel's start to the last one's end. */
  readonly microseconds: number
  /** The part of `microseconds` during which no kernel ran. */
  readonly idle: number
  /** Sorted by time, longest first. */
  readonly kernels: ReadonlyArray<KernelTime>
}

/** Runs `work` and profiles the GPU meanwhile. Recording slows down launches but not kernels. Throws without a GPU. */
export const profileGpu = (work: () => void): GpuProfile => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-profile-"))
  const file = join(folder, "trace.json")
  try {
    native().startProfile()
    try {
      work()
    } finally {
      native().stopProfile(file)
    }
    return summarise(eventsOf(readFileSync(file, "utf8")))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

interface TraceEvent {
  readonly cat?: string
  readonly name: string
  readonly ts: number
  readonly dur?: number
}
/** The GPU events of a trace in Chrome's format. */
const eventsOf = (trace: string): Array<GpuEvent> => {
  const { traceEvents } = JSON.parse(trace) as { readonly traceEvents: ReadonlyArray<TraceEvent> }
  return traceEvents
    .filter(({ cat }) => cat === "kernel" || cat === "gpu_memcpy" || cat === "gpu_memset")
    .map(({ dur, name, ts }) => ({ name, start: ts, duration: dur ?? 0 }))
}

export const summarise = (events: ReadonlyArray<GpuEvent>): GpuProfile => {
  const byName = new Map<string, { calls: number; microseconds: number }>()
  let [busy, end] = [0, -Infinity]
  const inOrder = events.toSorted((a, b) => a.start - b.start)
  for (const { duration, name, start } of inOrder) {
    const sum = byName.get(name) ?? { calls: 0, microseconds: 0 }
    byName.set(name, { calls: sum.calls + 1, microseconds: sum.microseconds + duration })
    // Kernels on different streams may overlap.
    busy += Math.max(0, start + duration - Math.max(start, end))
    end = Math.max(end, start + duration)
  }
  const microseconds = inOrder.length === 0 ? 0 : end - inOrder[0]!.start
  const kernels = [...byName].map(([name, sum]) => ({ name, ...sum })).toSorted((a, b) => b.microseconds - a.microseconds)
  return { microseconds, idle: microseconds - busy, kernels }
}

/** A profile as text: the twenty kernels that took longest. */
export const describeProfile = ({ idle, kernels, microseconds }: GpuProfile): string => {
  const share = (part: number) => `${((100 * part) / microseconds).toFixed(1)}%`.padStart(7)
  const line = ({ calls, microseconds: time, name }: KernelTime) =>
    `${(time / 1000).toFixed(2).padStart(10)}${share(time)}${String(calls).padStart(8)}${(time / calls).toFixed(1).padStart(10)}  ${name.slice(0, 110)}`
  const head = `${(microseconds / 1000).toFixed(2)} ms on the GPU, ${(idle / 1000).toFixed(2)} of them idle (${share(idle).trim()})`
  return [head, "        ms  share   calls   us each  kernel", ...kernels.slice(0, 20).map(line), ""].join("\n")
}
