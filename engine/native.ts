/**
 * The native addon, loaded when the first tensor is made. It is built on first use into a per-user cache keyed by its source and the libtorch
 * it is built against (engine/native/build.mjs).
 */
import { createRequire } from "node:module"
import { chooseKernels } from "./kernels.ts"

/** A tensor's handle: slot and generation (see native/handles.h). */
export type Handle = number

/** An argument of a call: a handle, number, string or list; null is None, undefined the operator's default. */
export type Argument = number | boolean | string | null | undefined | ReadonlyArray<number | boolean | null>

export interface Environment {
  readonly libtorch: string
  readonly config: string
  readonly blas: string
  readonly cpuCapability: string
  readonly threads: number
  readonly gpus: number
  /** The first GPU: its name, bytes of memory, and the generation of its compute capability (8: Ampere); "" and 0 without one. */
  readonly gpu: string
  readonly gpuMemory: number
  readonly gpuGeneration: number
}

export interface Native {
  findOperator(name: string, overload: string): number
  call(operator: number, ...args: ReadonlyArray<Argument>): any
  openScope(): void
  closeScope(survivors: ReadonlyArray<Handle>): void
  keep(tensor: Handle): void
  free(tensor: Handle): void
  freeAll(): void
  liveCount(): number
  fromBytes(view: ArrayBufferView, shape: ReadonlyArray<number>, dtype: number, device: string): Handle
  toBytes(tensor: Handle, view: ArrayBufferView, first?: number): void
  readInto(tensor: Handle, file: number, offset: number, dtype: number): number
  item(tensor: Handle): number
  describe(tensor: Handle): Array<number>
  requiresGrad(tensor: Handle, on: boolean): void
  hasGradient(tensor: Handle): boolean
  backward(tensor: Handle, gradient?: Handle): void
  gradient(tensor: Handle): Handle | null
  clearGradients(tensors: ReadonlyArray<Handle>): void
  gradMode(on: boolean): boolean
  seedGenerator(device: string, seed: number): void
  generatorState(device: string): Handle
  setGeneratorState(device: string, state: Handle): void
  setThreads(threads: number): void
  allowTf32(on: boolean): void
  gpuKernelsMissing(): string | null
  gpuCompiler(): string
  beginGraph(): void
  endGraph(): number
  runGraph(graph: number): void
  freeGraph(graph: number): void
  synchronize(): void
  deviceMemory(resetPeak?: boolean): [current: number, peak: number, available: number | null] | null
  startProfile(): void
  stopProfile(file: string): void
  environment(): Environment
}

/**
 * Whether an error is libtorch's out-of-memory error, on the GPU or the CPU. The failed computation leaves nothing behind except the gradients that
 * were accumulated before the failure.
 */
export const isOutOfMemory = (cause: unknown): cause is Error & { readonly code: "OUT_OF_MEMORY" } =>
  cause instanceof Error && "code" in cause && cause.code === "OUT_OF_MEMORY"

let loaded: Native | undefined

/** Loads the addon, building it first if necessary. Throws with the reason and the command that fixes it. Uses one torch thread by default. */
export function native(): Native {
  if (loaded !== undefined) return loaded
  const require = createRequire(import.meta.url)
  const build = require("./native/build.mjs") as typeof import("./native/build.mjs")
  const path = build.buildAddon()
  chooseKernels(path, build.findLibtorch())
  const addon = require(path) as Native
  addon.setThreads(1)
  loaded = addon
  return addon
}

const operators = new Map<string, number>()

/** The number of an operator: ATen's "add.Tensor" or "mm", or with a namespace "caravan::swiglu"; -1 if there is no operator of that name. */
export function findOperator(name: string): number {
  let operator = operators.get(name)
  if (operator === undefined) {
    const [base, overload] = name.split(".") as [string, string | undefined]
    operator = native().findOperator(base.includes("::") ? base : `aten::${base}`, overload ?? "")
    operators.set(name, operator)
  }
  return operator
}

export const hasOperator = (name: string): boolean => findOperator(name) !== -1
