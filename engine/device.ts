/** Threads, devices, memory, and the description of this machine's numerics. */
import { type Environment, native } from "./native.ts"

export { type Environment, isOutOfMemory } from "./native.ts"

/** What libtorch says of itself and of the machine. */
export const environment = (): Environment => native().environment()

/** Whether a CUDA device can be used. */
export const hasCuda = (): boolean => native().environment().gpus > 0

/** Threads that an operator may use on the CPU; part of the numerics, since sums are split by thread. */
export const setThreads = (threads: number): void => native().setThreads(threads)

/** Whether float32 products on a GPU may use TensorFloat-32: 10 bits of mantissa, several times the speed. Off unless called, as in PyTorch. */
export const allowTf32 = (on: boolean): void => native().allowTf32(on)

/** Why this project's kernels for the GPU are not there, and slower operators of libtorch run instead; undefined where they are, or where there is no GPU. */
export const gpuKernelsMissing = (): string | undefined => native().gpuKernelsMissing() ?? undefined

/** Waits until the GPU has done all it was given. Nothing to do on the CPU. */
export const synchronize = (): void => native().synchronize()

export interface DeviceMemory {
  readonly current: number
  readonly peak: number
  /** What this process has of the GPU or could get: all that other programs do not hold. undefined where the driver does not tell. */
  readonly available: number | undefined
}

/** Bytes that tensors hold on the GPU now, and at most since the last reset; undefined without a GPU (or before libtorch 2.9). */
export const deviceMemory = (options: { readonly resetPeak?: boolean } = {}): DeviceMemory | undefined => {
  const memory = native().deviceMemory(options.resetPeak ?? false)
  return memory === null ? undefined : { current: memory[0], peak: memory[1], available: memory[2] ?? undefined }
}

/**
 * Bytes of the first GPU's memory in whole GiB, whatever of it is free; undefined on the CPU. It is the same for every GPU of a model, and part of
 * the numerics: what is chosen by it follows from the key.
 */
export const totalMemory = (device: "cpu" | "cuda"): number | undefined => {
  if (device === "cpu") return undefined
  return Math.floor(environment().gpuMemory / 2 ** 30) * 2 ** 30
}

/** What a stage reports of its memory: the most MiB that tensors held on the GPU; nothing without one. */
export const gpuMemory = (): { readonly gpuMemory: number } | Record<string, never> => {
  const memory = deviceMemory()
  return memory === undefined ? {} : { gpuMemory: memory.peak / 2 ** 20 }
}

/**
 * Everything that was seen to change bits of a result, apart from the program and its inputs: it enters the cache key of stages that compute
 * with tensors.
 */
export const describeNumerics = (device: "cpu" | "cuda", threads: number): Record<string, string> => {
  const { libtorch, blas, cpuCapability, gpu } = environment()
  return device === "cuda"
    ? {
        ...{ libtorch, device, gpu, gpuMemory: `${(totalMemory(device) ?? 0) / 2 ** 30} GiB` },
        kernels: gpuKernelsMissing() === undefined ? "nvrtc" : "none"
      }
    : { libtorch, device, threads: String(threads), blas, cpuCapability }
}
