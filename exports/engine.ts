/**
 * Tensors, for stages that compute with them.
 *
 * @module caravan/engine
 */
export * from "../engine/tensor.ts"
export { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
export { agree, rowsOfRank, gatherAll, overRanks, rank, ranks, type Sharding, sumOver } from "../engine/ranks.ts"
export { backward, type SpreadWeights } from "../engine/segments.ts"
export { type Spread, spreadOver } from "../engine/spread.ts"
export { AdamW, type AdamWOptions } from "../engine/optimizer.ts"
export { constantSchedule, cosineSchedule, type Schedule } from "../engine/schedule.ts"
export { generatorState, seedGenerator, setGeneratorState } from "../engine/generator.ts"
export { type DeviceMemory, deviceMemory, type Environment, environment, hasCuda, setThreads, synchronize } from "../engine/device.ts"
export type { Argument } from "../engine/native.ts"
export type { Operand } from "../engine/tensor/operators.ts"
