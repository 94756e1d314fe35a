/** A node: a stage applied to nodes and a config, or a user's file. A plain lazy value; creating one runs nothing. */
import { resolve } from "node:path"
import { type ArtifactType, External, type ExternalFile } from "../../schemas/artifact.ts"
import { hubNameText, isHubName, parseHubName } from "../../schemas/hub-name.ts"
import { own } from "../../schemas/own.ts"
import { messageOf, PipelineError } from "../errors.ts"
import type { Sizes } from "./cost.ts"
import { type Placement, placementBounds } from "./placement.ts"
import type { StageInfo } from "./stage-info.ts"

export const NodeTypeId = Symbol.for("caravan/Node")

export interface Node<out A> {
  readonly [NodeTypeId]: true
  readonly Artifact?: A | undefined
  readonly definition: NodeDefinition
  /** Returns the same node with a name, which --only, why and the tables use. */
  named(name: string): Node<A>
  /** Returns the same node with sizes that a plan may assume before the result exists. Not part of any key. */
  expecting(sizes: Sizes): Node<A>
  /**
   * Returns the same node with limits on time and memory and a number of retries. Not part of any key. Equal nodes are merged, with the stricter
   * limits.
   */
  limited(limits: NodeLimits): Node<A>
  /** Returns the same node with a placement: where it runs and on how many GPUs. Not part of any key. */
  on(placement: Placement): Node<A>
}
export interface NodeLimits {
  /** Wall time in seconds. */
  readonly seconds?: number
  /** Resident memory of the stage's process in MiB; Node and its libraries use about 100 of it. */
  readonly memory?: number
  /**
   * Number of retries after a crash, a timeout or a transient failure, with delays of 1, 2, 4 .. seconds. A stage's own error says by `isRetryable`
   * whether it is transient; an error that does not say is retried. Never retried: defects (anything thrown), exceeding the memory limit, and
   * deterministic failures (an unsuitable config or dataset, a training run that diverged).
   */
  readonly retries?: number
  /** Maximum fraction of unusable rows that the stage may skip, 0 to 1. Default: 0.2. */
  readonly skipped?: number
}
export type AnyNode = Node<any>

export type NodeDefinition =
  | {
      readonly kind: "stage"
      readonly stage: StageInfo
      readonly inputs: Readonly<Record<string, AnyNode | ReadonlyArray<AnyNode> | undefined>>
      readonly config: Readonly<Record<string, unknown>>
      readonly seed: number | undefined
      readonly name: string | undefined
      readonly type: ArtifactType<any>
      readonly expected?: Sizes
      readonly limits?: NodeLimits
      readonly placement?: Placement
    }
  | {
      readonly kind: "file"
      readonly path: string
      readonly name: string | undefined
      readonly type: ArtifactType<any>
      readonly expected?: Sizes
    }

/** Per limit: what is expected instead of an invalid value, or undefined if the value is valid. */
const limitBounds: Bounds = {
  seconds: (value) => (Number.isFinite(value) && (value as number) > 0 ? undefined : "a number of seconds above 0"),
  memory: (value) => (Number.isFinite(value) && (value as number) > 0 ? undefined : "a number of MiB above 0"),
  retries: (value) => (Number.isSafeInteger(value) && (value as number) >= 0 ? undefined : "an integer, 0 or more"),
  skipped: (value) => ((value as number) >= 0 && (value as number) <= 1 ? undefined : "a fraction from 0 to 1")
}

class MadeNode<A> implements Node<A> {
  readonly [NodeTypeId] = true
  readonly definition: NodeDefinition
  constructor(definition: NodeDefinition) {
    this.definition = definition
  }
  named(name: string): Node<A> {
    if (name === "") throw new PipelineError({ message: "the name of a node is empty. Give it a name, or remove named()." })
    return makeNode({ ...this.definition, name })
  }
  expecting(sizes: Sizes): Node<A> {
    return makeNode({ ...this.definition, expected: { ...this.definition.expected, ...sizes } })
  }
  limited(limits: NodeLimits): Node<A> {
    const { definition } = this
    check("limited", { ...limits }, limitBounds)
    return makeNode(definition.kind === "stage" ? { ...definition, limits: { ...definition.limits, ...limits } } : definition)
  }
  on(placement: Placement): Node<A> {
    const { definition } = this
    check("on", { ...placement }, placementBounds)
    return makeNode(definition.kind === "stage" ? { ...definition, placement: { ...definition.placement, ...placement } } : definition)
  }
}

type Bounds = Readonly<Record<string, (value: unknown) => string | undefined>>
const check = (method: string, given: Readonly<Record<string, string | number | undefined>>, bounds: Bounds): void => {
  for (const [name, value] of Object.entries(given)) {
    const expected = (own(bounds, name) ?? (() => `one of ${Object.keys(bounds).join(", ")}`))(value)
    if (value !== undefined && expected !== undefined)
      throw new PipelineError({ message: `${method}({ ${name}: ${String(value)} }): expected ${expected}.` })
  }
}

export const makeNode = <A>(definition: NodeDefinition): Node<A> => new MadeNode(definition)

export const isNode = (value: unknown): value is AnyNode => typeof value === "object" && value !== null && NodeTypeId in value

/**
 * A user's file or folder, or the files matching a pattern ("data/*.parquet"), identified by content: path, owner and times do not matter, except
 * for the ending of a table, a plain text or a module (csv, tsv, txt, js, ts). Relative paths start at the working directory. "hf:owner/name@revision:path" is a model on the Hugging Face Hub, "hf:datasets/owner/name@revision:path" a
 * dataset there, identified by commit.
 */
export const fileAt = (path: string): Node<ExternalFile> => {
  // An empty path would mean the whole working directory.
  if (path === "") throw new PipelineError({ message: "the path of an input is empty. Give the path of a file or folder." })
  return makeNode({ kind: "file", path: isHubName(path) ? hubText(path) : resolve(path), name: undefined, type: External })
}

const hubText = (path: string): string => {
  try {
    return hubNameText(parseHubName(path))
  } catch (cause) {
    throw new PipelineError({ message: messageOf(cause) })
  }
}
