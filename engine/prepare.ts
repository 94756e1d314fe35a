/** What a child process does before it runs stages with tensors. */
import { deviceMemory, gpuMemory, hasCuda, setThreads } from "./device.ts"
import { native } from "./native.ts"
import { joinRanks, type Sharding } from "./ranks.ts"

/** Ranks are started at different times, and load their code first: seconds. */
const leastJoining = 60

/** A process that is one of several ranks joins them first. */
export const prepare = (
  device: string,
  threads: number,
  place?: {
    readonly rank: number
    readonly size: number
    readonly host: string
    readonly port: number
    readonly sharding: Sharding
    readonly seconds: number
  }
): void => {
  setThreads(threads)
  if (device === "cuda" && !hasCuda() && place !== undefined)
    throw new Error(
      `rank ${place.rank} of ${place.size} has no GPU: there are fewer than ${place.size} here (CUDA_VISIBLE_DEVICES, nvidia-smi), or libtorch was built without CUDA. Take as many --ranks as there are GPUs`
    )
  if (device === "cuda" && !hasCuda())
    throw new Error("there is no CUDA device here (or libtorch was built without CUDA). Run `caravan doctor`, or use --device cpu")
  if (place !== undefined)
    joinRanks({ ...place, joining: Math.max(leastJoining, place.seconds), deadline: place.seconds }, device === "cuda" ? "cuda" : "cpu")
}

/** Called before each stage; what it gives is called after it, and gives metrics: the most memory of the GPU that tensors held, in MiB. */
export const measure = (): (() => Readonly<Record<string, number>>) => {
  deviceMemory({ resetPeak: true })
  return gpuMemory
}

/**
 * Called last, whatever has become of the stage: frees the models and all else that it left, on the CPU and on the GPU. What a stage can have is then the same
 * whichever stages ran before it in this process.
 */
export const release = (): void => native().freeAll()
