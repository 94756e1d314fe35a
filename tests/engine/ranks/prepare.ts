/** engine/prepare.ts for processes that a test starts: their ranks may share a GPU. */
import { sharedGpu } from "./shared-gpu.ts"

const { RANK, SHARED_GPU } = process.env
// Before anything loads CUDA.
if (SHARED_GPU === "yes" && RANK !== undefined) Object.assign(process.env, sharedGpu(RANK))

export const { measure, prepare, release } = await import("../../../engine/prepare.ts")
