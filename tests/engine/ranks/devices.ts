/** The devices on which this machine can run ranks. */
import { environment } from "../../../engine/device.ts"
import { backendOf } from "../../../engine/ranks/build.mjs"

const { gpus } = environment()
/** Whether all ranks use one GPU (shared-gpu.ts). */
export const isShared = gpus === 1

/** The devices, and the largest number of ranks. A libtorch with CUDA does not include Gloo's headers. */
export const devices = [
  { device: "cpu", most: 4, skip: backendOf() !== "gloo" },
  { device: "cuda", most: isShared ? 4 : gpus, skip: gpus === 0 }
] as const
