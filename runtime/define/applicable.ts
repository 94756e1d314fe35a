/** An applicable stage: a function from nodes and a config to a node. Returned by `Stage.make`, `Stage.map` and `Stage.pinned`. */
import { dirname } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import type { ArtifactType } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import { makeNode, type Node } from "./node.ts"
import type { AnyStage, Many, Optional, Ports, StageInfo } from "./stage-info.ts"

type Wire<P> =
  P extends Many<infer A>
    ? ReadonlyArray<Node<A>>
    : P extends Optional<infer A>
      ? Node<A> | undefined
      : P extends ArtifactType<infer A>
        ? Node<A>
        : never
type OptionalPorts<I> = { [K in keyof I]: I[K] extends Optional<any> ? K : never }[keyof I]
/** The input nodes of a stage: one entry per port. */
export type Wires<I> = { readonly [K in Exclude<keyof I, OptionalPorts<I>>]: Wire<I[K]> } & {
  readonly [K in OptionalPorts<I>]?: Wire<I[K]>
}

type NodeOptions = { readonly seed?: number }
type ConfigArguments<Config extends ConfigSchema> = {} extends Config["Encoded"]
  ? [config?: Config["Encoded"] & NodeOptions]
  : [config: Config["Encoded"] & NodeOptions]

export interface Stage<Config extends ConfigSchema, Inputs extends Ports, Output> extends AnyStage {
  /** Applies the stage: one node per port, then the hyperparameters that differ from their defaults (and a seed, to distinguish repeated nodes). */
  <W extends Wires<Inputs>>(
    inputs: W & { readonly [K in Exclude<keyof W, keyof Inputs>]: never },
    ...config: ConfigArguments<Config>
  ): Node<Output>
}

export const applicable = <Config extends ConfigSchema, Inputs extends Ports, Output>(info: StageInfo): Stage<Config, Inputs, Output> => {
  const stage = ((inputs: Record<string, Node<any>>, config: Record<string, unknown> & NodeOptions = {}) => {
    const { seed, ...fields } = config
    // Lists are copied: a loop over rounds may later append to its own list, which must not change existing nodes.
    const wired = Object.fromEntries(Object.entries(inputs).map(([port, given]) => [port, Array.isArray(given) ? [...given] : given]))
    return makeNode<Output>({
      kind: "stage",
      stage: info,
      inputs: wired,
      config: fields,
      seed,
      name: undefined,
      type: info.output
    })
  }) as unknown as Stage<Config, Inputs, Output>
  return Object.assign(stage, { stage: info })
}

/** The module that called `make` or `map`: the file of the first stack frame outside this folder. */
export const callSite = (): string | undefined => {
  const own = dirname(fileURLToPath(import.meta.url))
  for (const line of (new Error("where").stack ?? "").split("\n").slice(1)) {
    const match = /(?:\()?((?:file:\/\/|\/)[^():]+?)(?:\?[^():]*)?:\d+:\d+\)?$/.exec(line.trim())
    if (match === null) continue
    const path = match[1]!.startsWith("file://") ? fileURLToPath(match[1]!) : match[1]!
    if (dirname(path) !== own) return pathToFileURL(path).href
  }
  return undefined
}
