/**
 * Stages: named, typed steps. A stage is an exported value of a module, so that a child process can load it and its code can be separated from the
 * rest of the module.
 */
import type * as Effect from "effect/Effect"
import type { Artifact, ArtifactType, Written } from "../../schemas/artifact.ts"
import { type ConfigSchema, otherEffect } from "../../schemas/hyper.ts"
import { applicable, callSite, type Stage } from "./applicable.ts"
import type { Agreement, Context, Looks, Ports, Resources, StageInfo } from "./stage-info.ts"

export type { Stage, Wires } from "./applicable.ts"
export { map } from "./map.ts"
export * from "./stage-info.ts"

export interface Definition<Config extends ConfigSchema, Inputs extends Ports, Output> {
  readonly description?: string
  readonly config: Config
  readonly inputs: Inputs
  readonly output: ArtifactType<Output>
  readonly resources?: Resources
  /** Whether the stage draws random numbers; if so, the seed is part of the key. Default: true. */
  readonly seeded?: boolean
  /** Properties of an input that the output keeps: trait -> port ({ tokenizer: "init" }). */
  readonly inherits?: Readonly<Record<string, keyof Inputs & string>>
  /** Properties that inputs must share: checked before anything runs, for inputs that already exist on disk (agreements.ts). */
  readonly agrees?: ReadonlyArray<Agreement<keyof Inputs & string>>
  /** Quick checks of user input before gigabytes of it are read: port -> check. */
  readonly looks?: Looks<keyof Inputs & string>
  /** The exporting module, if it is not the one that calls make: pass import.meta. */
  readonly module?: { readonly url: string }
  readonly run: (context: Context<Config, Inputs, NoInfer<Output>>) => Effect.Effect<Written<NoInfer<Output>>, { readonly message: string }>
}

/**
 * Defines a stage. The module that calls make must export it, because the stage runs in a separate process that imports the module. `run` returns an
 * Effect. A failure is shown by its `message`, and its `isRetryable` says whether a retry may help; a failure without it is retried if retries are
 * requested (`node.limited`, --retries). A thrown value is a defect, a bug in the code, and is never retried.
 *
 *     export const shout = Stage.make("shout", {
 *       config: Schema.Struct({ times: hyperInt(1, "how often") }),
 *       inputs: { texts: Texts },
 *       output: Texts,
 *       run: Effect.fn("shout")(function* ({ config, inputs, output }) {
 *         const rows = yield* readRows(inputs.texts, Texts)
 *         return yield* writeDataset(output, rows.map((row) => ({ text: row.text + "!".repeat(config.times) })))
 *       })
 *     })
 */
export const make = <Config extends ConfigSchema, const Inputs extends Ports, Output extends Artifact>(
  name: string,
  definition: Definition<Config, Inputs, Output>
): Stage<Config, Inputs, Output> => {
  const module = definition.module?.url ?? callSite()
  if (module === undefined)
    throw new Error(`Stage "${name}": can't determine the calling module. Add \`module: import.meta\` to its definition.`)
  const other = otherEffect(definition.config)
  if (other !== undefined)
    throw new Error(
      `Stage.make(${JSON.stringify(name)}): expected a config, a Schema.Struct (\`Schema.Struct({})\` if it has no fields), ${other}.`
    )
  const info: StageInfo = {
    name,
    description: definition.description ?? "",
    config: definition.config,
    inputs: definition.inputs,
    output: definition.output,
    resources: definition.resources ?? {},
    seeded: definition.seeded ?? true,
    inherits: definition.inherits ?? {},
    agrees: definition.agrees ?? [],
    looks: definition.looks ?? {},
    module,
    loaded: Date.now(),
    run: definition.run as StageInfo["run"]
  }
  return applicable(info)
}

/**
 * Returns the stage with a version that replaces its code in cache keys, so that code edits and package updates do not invalidate its results. Use it
 * for results that are too expensive to recompute after a cosmetic change. The code that made each result is recorded: when it has changed, `plan` and
 * `run` report it, `run --locked` fails, and `caravan bless` accepts the new code. A new version recomputes everything. Export the pinned stage instead
 * of the original.
 *
 *     export const pretrain = Stage.pinned("v3", Stage.make("pretrain", { ... }))
 */
export const pinned = <Config extends ConfigSchema, Inputs extends Ports, Output>(
  version: string,
  { stage }: Stage<Config, Inputs, Output>
): Stage<Config, Inputs, Output> => {
  if (typeof version !== "string" || version.trim() === "")
    throw new Error(`Stage.pinned(${JSON.stringify(version)}, ${stage.name}): the version must be a non-empty string, such as "v3".`)
  return applicable({ ...stage, pinned: version, variantOf: stage })
}
