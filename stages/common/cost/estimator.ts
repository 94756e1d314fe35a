/** Cost estimates of stages, exported next to the stages (docs/decisions/0007-cost-estimates.md). */
import type { SpreadOver } from "../../../models/memory.ts"
import type { Sizes } from "../../../runtime/define/cost.ts"
import type { Many, Optional, Ports, Stage, StageInfo } from "../../../runtime/define/stage.ts"
import type { Artifact } from "../../../schemas/artifact.ts"
import type { ConfigSchema } from "../../../schemas/hyper.ts"
import type { Size } from "./size.ts"
import type { StageCost } from "./work.ts"

type Given<P> = P extends Many<any> ? ReadonlyArray<Size> : P extends Optional<any> ? Size | undefined : Size
/** The information available to a size estimate. */
export interface SizeRequest<Config = any, Inputs = any> {
  readonly config: Config
  readonly inputs: { readonly [K in keyof Inputs]: Given<Inputs[K]> }
  /** The output sizes that the pipeline declares. */
  readonly expected: Sizes
}
/** The information available to a cost estimate. */
export interface CostRequest<Config = any, Inputs = any> extends SizeRequest<Config, Inputs> {
  /** Memory of the target GPU, in bytes. */
  readonly deviceMemory: number
  /** The ranks that the stage would run on; one by default. */
  readonly spread?: SpreadOver | undefined
}
/** Estimates the output's size and the cost of computing it; no cost for a stage without tensors. */
export interface Estimate<Config = any, Inputs = any> {
  readonly size: (request: SizeRequest<Config, Inputs>) => Size
  readonly cost?: (request: CostRequest<Config, Inputs>) => StageCost
}
/** The estimate of one stage. */
export interface Estimator<Config = any, Inputs = any> extends Estimate<Config, Inputs> {
  readonly estimates: StageInfo
}

/**
 * Defines a stage's estimate for `caravan plan`. Export it, under any name, from the module that exports the stage. It is not part of the stage's code identity:
 * improving an estimate does not invalidate results. Your own stages may have one too; without it, `plan` lists the stage's cost as unknown.
 *
 *     export const shoutCost = costOf(shout, {
 *       size: ({ inputs }) => inputs.texts,
 *       cost: (request) => packedTraining(request.inputs.init, request.inputs.texts, request.config, "texts", request)
 *     })
 */
export const costOf = <Config extends ConfigSchema, Inputs extends Ports, Output extends Artifact>(
  { stage }: Stage<Config, Inputs, Output>,
  estimate: NoInfer<Estimate<Config["Type"], Inputs>>
): Estimator<Config["Type"], Inputs> => ({ ...estimate, estimates: stage })

const isOf = (value: unknown, stage: StageInfo): value is Estimator =>
  typeof value === "object" && value !== null && "estimates" in value && value.estimates === stage

/** The estimator of a stage, or of the stage that it is a variant of, as exported by their modules; undefined if there is none. */
export const estimatorOf = async (stage: StageInfo): Promise<Estimator | undefined> => {
  const exported = Object.values((await import(stage.module)) as Record<string, unknown>)
  const own = exported.find((value) => isOf(value, stage))
  return own ?? (stage.variantOf === undefined ? undefined : estimatorOf(stage.variantOf))
}
