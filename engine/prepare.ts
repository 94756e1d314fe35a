/** Sets up a child process before it runs stages with tensors, and cleans up after each stage. */
import { deviceMemory, gpuMemory, hasCuda, setThreads } from "./device.ts"
import { native } from "./native.ts"
import { joinRanks, type Sharding } from "./ranks.ts"

/** Minimum time to wait for the other ranks, in seconds: they start at different times and load their code first. */
const leastJoining = 60

/** Sets the device and the threads. If the process is one of several ranks, it joins their group first. */
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
      `rank ${place.rank} of ${place.size} has no GPU: this machine has fewer than ${place.size} GPUs (see CUDA_VISIBLE_DEVICES, nvidia-smi), or libtorch was built without CUDA. Set --ranks to the number of GPUs`
    )
  if (device === "cuda" && !hasCuda())
    throw new Error("this machine has no CUDA device (or libtorch was built without CUDA). Run `caravan doctor`, or use --device cpu")
  if (place !== undefined)
    joinRanks({ ...place, joining: Math.max(leastJoining, place.seconds), deadline: place.seconds }, device === "cuda" ? "cuda" : "cpu")
}

/** Call before each stage. Returns a function to call after the stage, which returns its metrics: the peak memory of tensors on the GPU, in MiB. */
export const measure = (): (() => Readonly<Record<string, number>>) => {
  deviceMemory({ resetPeak: true })
  return gpuMemory
}

/**
 * Call last, whether the stage succeeded or failed: frees all tensors that it left, on the CPU and on the GPU. The memory available to a stage is then the same
 * whichever stages ran before it in this process.
 */
export const release = (): void => native().freeAll()
