/** Threads, devices, memory, and the description of this machine's numerics. */
import { type Environment, native } from "./native.ts"

export { type Environment, isOutOfMemory } from "./native.ts"

/** What libtorch reports about itself and the machine. */
export const environment = (): Environment => native().environment()

/** Whether a CUDA device can be used. */
export const hasCuda = (): boolean => native().environment().gpus > 0

/** Sets the number of CPU threads per operator. It is part of the numerics because sums are split by thread. */
export const setThreads = (threads: number): void => native().setThreads(threads)

/** Sets whether float32 matrix products on a GPU may use TensorFloat-32: 10 bits of mantissa, several times the speed. Off by default, as in PyTorch. */
export const allowTf32 = (on: boolean): void => native().allowTf32(on)

/** Why our GPU kernels are unavailable, so that libtorch's slower operators run instead; undefined if they are available or there is no GPU. */
export const gpuKernelsMissing = (): string | undefined => native().gpuKernelsMissing() ?? undefined

/** Waits until the GPU has finished all queued work. Does nothing on the CPU. */
export const synchronize = (): void => native().synchronize()

export interface DeviceMemory {
  readonly current: number
  readonly peak: number
  /** Memory that this process holds or could allocate: everything that other programs do not hold. undefined if the driver does not report it. */
  readonly available: number | undefined
}

/** Bytes that tensors hold on the GPU now, and the peak since the last reset; undefined without a GPU (or before libtorch 2.9). */
export const deviceMemory = (options: { readonly resetPeak?: boolean } = {}): DeviceMemory | undefined => {
  const memory = native().deviceMemory(options.resetPeak ?? false)
  return memory === null ? undefined : { current: memory[0], peak: memory[1], available: memory[2] ?? undefined }
}

/**
 * Total memory of the first GPU in bytes, rounded down to whole GiB; undefined on the CPU. It is the same for every GPU of a given model, and it is part
 * of the numerics and so of the cache key: results may depend on it.
 */
export const totalMemory = (device: "cpu" | "cuda"): number | undefined => {
  if (device === "cpu") return undefined
  return Math.floor(environment().gpuMemory / 2 ** 30) * 2 ** 30
}

/** A stage's memory metric: the peak memory of tensors on the GPU, in MiB; empty without a GPU. */
export const gpuMemory = (): { readonly gpuMemory: number } | Record<string, never> => {
  const memory = deviceMemory()
  return memory === undefined ? {} : { gpuMemory: memory.peak / 2 ** 20 }
}

/** The versions of CUDA's libraries in libtorch's description of itself: one version of libtorch is built with several. Empty if it names none. */
export const cudaVersions = (config: string): { readonly cuda: string; readonly cudnn: string } => {
  const of = (name: string) => new RegExp(`- ${name} ([\\d.]+)`).exec(config)?.[1] ?? ""
  return { cuda: of("CUDA Runtime"), cudnn: of("CuDNN") }
}

/**
 * Everything known to change the bits of a result, apart from the program and its inputs. It is part of the cache key of stages that compute
 * with tensors.
 */
export const describeNumerics = (device: "cpu" | "cuda", threads: number): Record<string, string> => {
  const { libtorch, blas, config, cpuCapability, gpu } = environment()
  return device === "cuda"
    ? {
        ...{ libtorch, ...cudaVersions(config), device, gpu, gpuMemory: `${(totalMemory(device) ?? 0) / 2 ** 30} GiB` },
        kernels: gpuKernelsMissing() === undefined ? native().gpuCompiler() : "none"
      }
    : { libtorch, device, threads: String(threads), blas, cpuCapability }
}
