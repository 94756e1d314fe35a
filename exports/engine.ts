/** "caravan/engine": tensors, for a stage that computes with them. */
export * from "../engine/tensor.ts"
export { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
export { AdamW, type AdamWOptions } from "../engine/optimizer.ts"
export { constantSchedule, cosineSchedule, type Schedule } from "../engine/schedule.ts"
export { generatorState, seedGenerator, setGeneratorState } from "../engine/generator.ts"
export { deviceMemory, type Environment, environment, hasCuda, setThreads, synchronize } from "../engine/device.ts"
export type { Argument } from "../engine/native.ts"
export type { Operand } from "../engine/tensor/operators.ts"
