/**
 * Stages: named, typed steps. A stage is an exported value of a module, so that a child process can find it again and its code can be told
 * from the rest of the module's.
 */
import type * as Effect from "effect/Effect"
import type { Artifact, ArtifactType, Written } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
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
  /** Whether it draws random numbers: then the seed is part of the key. True unless said otherwise. */
  readonly seeded?: boolean
  /** What the output takes over unchanged from an input: trait -> port ({ tokenizer: "init" }). */
  readonly inherits?: Readonly<Record<string, keyof Inputs & string>>
  /** What inputs must have in common: checked before anything runs, as far as it is on disk by then (agreements.ts). */
  readonly agrees?: ReadonlyArray<Agreement<keyof Inputs & string>>
  /** A first look at what the user gives, before gigabytes of it are read: port -> check. */
  readonly looks?: Looks<keyof Inputs & string>
  /** The module that exports the stage, when it is not the one that calls make: pass import.meta. */
  readonly module?: { readonly url: string }
  readonly run: (context: Context<Config, Inputs, NoInfer<Output>>) => Effect.Effect<Written<NoInfer<Output>>, { readonly message: string }>
}

/**
 * Defines a stage. It must be exported by the module that makes it: it runs in a process of its own, which imports that module. `run` gives an Effect. What
 * it fails with is shown by its `message`, and says by `isRetryable` whether trying again may help; without that it is tried again where retries are
 * asked for (`node.limited`, --retries). What is thrown is a defect, a mistake in the code, and never tried again.
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
    throw new Error(`Stage "${name}": can't tell which module makes it. Add \`module: import.meta\` to its definition.`)
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
 * The same stage under a version that stands for its code in keys: an edit of its code, or another version of a package, makes nothing again. For
 * what is too costly to be made again for a cosmetic change. What its results were made with is recorded: `plan` and `run` say when the code is no
 * longer that, `run --locked` fails then, `caravan bless` accepts it, and another version makes everything anew. Export it in the stage's place.
 *
 *     export const pretrain = Stage.pinned("v3", Stage.make("pretrain", { ... }))
 */
export const pinned = <Config extends ConfigSchema, Inputs extends Ports, Output>(
  version: string,
  { stage }: Stage<Config, Inputs, Output>
): Stage<Config, Inputs, Output> => {
  if (typeof version !== "string" || version.trim() === "")
    throw new Error(
      `Stage.pinned(${JSON.stringify(version)}, ${stage.name}): the version must be a text that says something, such as "v3".`
    )
  return applicable({ ...stage, pinned: version, variantOf: stage })
}
