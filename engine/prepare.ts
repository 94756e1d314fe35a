/** What a child process does before it runs stages with tensors. */
import { hasCuda, setThreads } from "./device.ts"

export const prepare = (device: string, threads: number): void => {
  setThreads(threads)
  if (device === "cuda" && !hasCuda())
    throw new Error("there is no CUDA device here (or libtorch was built without CUDA). Run `caravan doctor`, or use --device cpu")
}
