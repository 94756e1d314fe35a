/** Declares stages mapped over the shards of a dataset; run/mapped.ts executes them. Reasons: docs/decisions/0010-stage-map.md. */
import type { Dataset, DatasetType } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import { applicable, callSite, type Stage } from "./applicable.ts"
import { portOf, type Ports } from "./stage-info.ts"

type DatasetPorts<Inputs> = { [K in keyof Inputs]: Inputs[K] extends DatasetType<any> ? K : never }[keyof Inputs] & string

/**
 * Returns a stage that runs `inner` on shards of the dataset at one port. It is applied like `inner`, and each application is one node. The dataset is
 * split every `rows` rows, `inner` runs on each shard with that shard's own seed, and the outputs are concatenated in order. Shard results are kept: a
 * killed run continues with the next shard, and after rows are appended only the last shard and the new ones are computed. Export the result, like any
 * stage.
 *
 *     export const shoutInParts = Stage.map(shout, { over: "texts", rows: 1000 })
 */
export const map = <Config extends ConfigSchema, const Inputs extends Ports, Row>(
  inner: Stage<Config, Inputs, Dataset<Row>>,
  options: {
    /** The port whose dataset is split. */
    readonly over: DatasetPorts<Inputs>
    /** Maximum rows per shard. Part of the key, because a stage may look at several rows together. */
    readonly rows: number
    /** The exporting module, if it is not the one that calls map: pass import.meta. */
    readonly module?: { readonly url: string }
  }
): Stage<Config, Inputs, Dataset<Row>> => {
  const { over, rows } = options
  const { stage } = inner
  const name = `${stage.name}-by-${rows}-${over}`
  const fail = (what: string) => new Error(`Stage.map(${stage.name}, { over: "${over}", rows: ${rows} }): ${what}`)
  const module = options.module?.url ?? callSite()
  if (module === undefined) throw fail("can't determine the calling module. Add `module: import.meta` to the options.")
  const port = stage.inputs[over]
  if (port === undefined) throw fail(`the stage has no input "${over}", only ${Object.keys(stage.inputs).join(", ")}.`)
  if (portOf(port).arity !== "one" || portOf(port).type.kind !== "dataset") throw fail(`the input "${over}" is not a single dataset.`)
  if (stage.output.kind !== "dataset") throw fail(`the stage's output is a ${stage.output.name}; only datasets can be concatenated.`)
  if (!Number.isInteger(rows) || rows < 1) throw fail("rows must be an integer, 1 or more.")
  if (stage.sharding !== undefined) throw fail("the stage is already mapped.")
  return applicable({ ...stage, name, module, loaded: Date.now(), sharding: { over, rows }, variantOf: stage })
}
