/** Stages over the shards of a dataset, as they are declared; how they run: run/mapped.ts. Why: docs/decisions/0010-stage-map.md. */
import type { Dataset, DatasetType } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import { applicable, callSite, type Stage } from "./applicable.ts"
import { portOf, type Ports } from "./stage-info.ts"

type DatasetPorts<Inputs> = { [K in keyof Inputs]: Inputs[K] extends DatasetType<any> ? K : never }[keyof Inputs] & string

/**
 * The same stage over shards of the dataset at one port: one node, applied as the stage itself is. It is cut after every `rows` rows, the stage
 * runs on each shard with a seed of its own, and the outputs follow each other in order. What was made of a shard is kept: a run that was
 * killed goes on with the next, and rows that are appended make only the last shard and the new ones again. Must be exported, as a stage is.
 *
 *     export const shoutInParts = Stage.map(shout, { over: "texts", rows: 1000 })
 */
export const map = <Config extends ConfigSchema, const Inputs extends Ports, Row>(
  inner: Stage<Config, Inputs, Dataset<Row>>,
  options: {
    /** The port whose dataset is cut. */
    readonly over: DatasetPorts<Inputs>
    /** Rows of a shard, at most. Part of the key: a stage may look at rows together. */
    readonly rows: number
    /** The module that exports it, when it is not the one that calls map: pass import.meta. */
    readonly module?: { readonly url: string }
  }
): Stage<Config, Inputs, Dataset<Row>> => {
  const { over, rows } = options
  const { stage } = inner
  const name = `${stage.name}-by-${rows}-${over}`
  const fail = (what: string) => new Error(`Stage.map(${stage.name}, { over: "${over}", rows: ${rows} }): ${what}`)
  const module = options.module?.url ?? callSite()
  if (module === undefined) throw fail("can't tell which module makes it. Add `module: import.meta` to its options.")
  const port = stage.inputs[over]
  if (port === undefined) throw fail(`the stage has no input "${over}", only ${Object.keys(stage.inputs).join(", ")}.`)
  if (portOf(port).arity !== "one" || portOf(port).type.kind !== "dataset") throw fail(`the input "${over}" is not one dataset.`)
  if (stage.output.kind !== "dataset") throw fail(`its output is a ${stage.output.name}; only datasets can be put together.`)
  if (!Number.isInteger(rows) || rows < 1) throw fail("rows must be a whole number, 1 or more.")
  if (stage.sharding !== undefined) throw fail("it is mapped already.")
  return applicable({ ...stage, name, module, loaded: Date.now(), sharding: { over, rows }, variantOf: stage })
}
