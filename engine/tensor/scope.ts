/** Lifetimes of tensors, and whether operations are recorded for gradients. */
import { type Handle, native } from "../native.ts"
import { Tensor } from "./tensor.ts"

const collect = (value: unknown, seen: Set<unknown>, handles: Array<Handle>): void => {
  if (typeof value !== "object" || value === null || seen.has(value) || ArrayBuffer.isView(value)) return
  seen.add(value)
  if (value instanceof Tensor) handles.push(value.handle)
  else if (value instanceof Map || value instanceof Set || Array.isArray(value))
    for (const element of value.values()) collect(element, seen, handles)
  else for (const element of Object.values(value)) collect(element, seen, handles)
}

/**
 * Runs `body` and frees every tensor created in it, except those reachable from its result, which pass to the enclosing scope, and those passed to keep().
 * `body` must be synchronous: across an await, the scope would also free tensors of unrelated code.
 */
export function scoped<A>(body: () => A): A {
  const addon = native()
  addon.openScope()
  const survivors: Array<Handle> = []
  try {
    const result = body()
    if (result instanceof Promise) throw new Error("scoped() needs a synchronous function: it can't free tensors across an await")
    collect(result, new Set(), survivors)
    return result
  } finally {
    addon.closeScope(survivors)
  }
}

/** Keeps a tensor alive beyond all scopes, until free() is called on it. */
export const keep = <T extends Tensor>(tensor: T): T => {
  native().keep(tensor.handle)
  return tensor
}

/** Runs `body` without recording operations for gradients. */
export function noGrad<A>(body: () => A): A {
  const addon = native()
  const before = addon.gradMode(false)
  try {
    return body()
  } finally {
    addon.gradMode(before)
  }
}

/** Whether operations are recorded for gradients here. */
export const recordsGradients = (): boolean => {
  const addon = native()
  const on = addon.gradMode(false)
  addon.gradMode(on)
  return on
}

/** Clears the gradients of these tensors. */
export const clearGradients = (tensors: Iterable<Tensor>): void => native().clearGradients(Array.from(tensors, (tensor) => tensor.handle))

/** The number of live tensors, for leak tests. */
export const liveTensors = (): number => native().liveCount()
