/** What a stage would cost, told beside the stage (docs/decisions/0007-cost-estimates.md). */
import type { SpreadOver } from "../../../models/memory.ts"
import type { Sizes } from "../../../runtime/define/cost.ts"
import type { Many, Optional, Ports, Stage, StageInfo } from "../../../runtime/define/stage.ts"
import type { Artifact } from "../../../schemas/artifact.ts"
import type { ConfigSchema } from "../../../schemas/hyper.ts"
import type { Size } from "./size.ts"
import type { StageCost } from "./work.ts"

type Given<P> = P extends Many<any> ? ReadonlyArray<Size> : P extends Optional<any> ? Size | undefined : Size
/** What an estimate goes by. */
export interface Asked<Config = any, Inputs = any> {
  readonly config: Config
  readonly inputs: { readonly [K in keyof Inputs]: Given<Inputs[K]> }
  /** What the pipeline expects of the output. */
  readonly expected: Sizes
}
/** What an estimate of a cost goes by. */
export interface AskedCost<Config = any, Inputs = any> extends Asked<Config, Inputs> {
  /** Bytes of memory of the GPU that is planned for. */
  readonly deviceMemory: number
  /** The ranks that the stage would be spread over; one unless given. */
  readonly spread?: SpreadOver | undefined
}
/** What the output's size follows from, and what making it costs; no cost where no tensor is computed. */
export interface Estimate<Config = any, Inputs = any> {
  readonly size: (asked: Asked<Config, Inputs>) => Size
  readonly cost?: (asked: AskedCost<Config, Inputs>) => StageCost
}
/** The estimate of a stage. */
export interface Estimator<Config = any, Inputs = any> extends Estimate<Config, Inputs> {
  readonly estimates: StageInfo
}

/**
 * A stage's estimate, for `caravan plan`: to be exported by the module that exports the stage, under any name. It is no part of the stage's code identity:
 * a better estimate makes nothing again. A stage of your own may have one too; without it `plan` lists the stage's cost as not known.
 *
 *     export const shoutCost = costOf(shout, {
 *       size: ({ inputs }) => inputs.texts,
 *       cost: (asked) => packedTraining(asked.inputs.init, asked.inputs.texts, asked.config, "texts", asked)
 *     })
 */
export const costOf = <Config extends ConfigSchema, Inputs extends Ports, Output extends Artifact>(
  { stage }: Stage<Config, Inputs, Output>,
  estimate: NoInfer<Estimate<Config["Type"], Inputs>>
): Estimator<Config["Type"], Inputs> => ({ ...estimate, estimates: stage })

const isOf = (value: unknown, stage: StageInfo): value is Estimator =>
  typeof value === "object" && value !== null && "estimates" in value && value.estimates === stage

/** The estimator of a stage, or of the stage that it is a variant of, as their modules export it; undefined where there is none. */
export const estimatorOf = async (stage: StageInfo): Promise<Estimator | undefined> => {
  const exported = Object.values((await import(stage.module)) as Record<string, unknown>)
  const own = exported.find((value) => isOf(value, stage))
  return own ?? (stage.variantOf === undefined ? undefined : estimatorOf(stage.variantOf))
}
