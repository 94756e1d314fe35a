/** Pipelines: named outputs and typed parameters. The default export of a definition file. */
import type * as Schema from "effect/Schema"
import type { ConfigSchema } from "../../schemas/hyper.ts"
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

/** `build` is a plain function of the parameters that wires nodes; it runs no stage. */
export const make = <Params extends Schema.Struct<any>, Outputs extends Readonly<Record<string, AnyNode>>>(
  name: string,
  options: { readonly description?: string; readonly params: Params },
  build: (params: Params["Type"]) => Outputs
): Pipeline<Params, Outputs> => ({ [PipelineTypeId]: true, name, description: options.description ?? "", params: options.params, build })

export const isPipeline = (value: unknown): value is AnyPipeline => typeof value === "object" && value !== null && PipelineTypeId in value
