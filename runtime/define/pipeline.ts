/** Pipelines: named outputs and typed parameters. A pipeline file exports one by default. */
import type * as Schema from "effect/Schema"
import { type ConfigSchema, otherEffect } from "../../schemas/hyper.ts"
import type { AnyNode } from "./node.ts"

export const PipelineTypeId = Symbol.for("caravan/Pipeline")

export interface Pipeline<Params extends ConfigSchema, Outputs extends Readonly<Record<string, AnyNode>>> {
  readonly [PipelineTypeId]: true
  readonly name: string
  readonly description: string
  readonly params: Params
  readonly build: (params: Params["Type"]) => Outputs
}
export type AnyPipeline = Pipeline<any, any>

/** `build` is a plain function of the parameters that connects nodes; it runs no stage. Throws if called from untyped code with missing arguments. */
export const make = <Params extends Schema.Struct<any>, Outputs extends Readonly<Record<string, AnyNode>>>(
  name: string,
  options: { readonly description?: string; readonly params: Params },
  build: (params: Params["Type"]) => Outputs
): Pipeline<Params, Outputs> => {
  const { description = "", params } = (options as Partial<typeof options> | undefined) ?? {}
  const typeOf = (found: unknown) => (found === undefined ? "none" : `a ${typeof found}`)
  const refuse = (expected: string, found: string) => {
    const error = new Error(`Pipeline.make(${JSON.stringify(name)}): expected ${expected}, ${found}`)
    // The stack starts at the author's call, not here.
    Error.captureStackTrace(error, make)
    throw error
  }
  if (typeof (params as { readonly fields?: unknown } | undefined)?.fields !== "object")
    return refuse("params, a Schema.Struct of its parameters (`{ params: Schema.Struct({}) }` if it has none)", `found ${typeOf(params)}`)
  const other = otherEffect(params)
  if (other !== undefined) return refuse("params, a Schema.Struct", other)
  if (typeof build !== "function")
    return refuse("a function of the parameters that returns nodes, after the options", `found ${typeOf(build)}`)
  return { [PipelineTypeId]: true, name, description, params: params!, build }
}

export const isPipeline = (value: unknown): value is AnyPipeline => typeof value === "object" && value !== null && PipelineTypeId in value
