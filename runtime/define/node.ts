/** A node: a stage applied to nodes and a config, or a file of the user's. A plain lazy value; nothing runs by making one. */
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
  /** The same node under a name of its own: what --only, why and the tables call it. */
  named(name: string): Node<A>
  /** The same node; what a plan may assume of its size as long as it is not there. No part of any key. */
  expecting(sizes: Sizes): Node<A>
  /**
   * The same node; what it may take before it is stopped, and how often it is tried again. No part of any key. Of equal nodes, which are one, the
   * stricter limits hold.
   */
  limited(limits: NodeLimits): Node<A>
  /** The same node; where it runs and on how many GPUs. No part of any key. */
  on(placement: Placement): Node<A>
}
export interface NodeLimits {
  /** Seconds of wall time. */
  readonly seconds?: number
  /** Resident memory of the process that the stage runs in, in MiB; of that, Node and its libraries take about 100. */
  readonly memory?: number
  /**
   * How often it is tried again when it crashed, took too long or failed with an error that may pass, after 1, 2, 4 .. seconds. An error of the stage's
   * own says whether it may by `isRetryable`; one that does not say is tried again. Never tried again: a defect (whatever is thrown), too much memory,
   * and what fails the same way each time (a config or data that does not fit, a training that diverged).
   */
  readonly retries?: number
  /** Largest share of its rows that the stage may skip because it can't use them, 0 to 1; 0.2 unless given. */
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

/** What is expected instead of a limit that is none; undefined for one that can be held. */
const limitBounds: Bounds = {
  seconds: (value) => (Number.isFinite(value) && (value as number) > 0 ? undefined : "seconds above 0"),
  memory: (value) => (Number.isFinite(value) && (value as number) > 0 ? undefined : "MiB above 0"),
  retries: (value) => (Number.isSafeInteger(value) && (value as number) >= 0 ? undefined : "a whole number from 0"),
  skipped: (value) => ((value as number) >= 0 && (value as number) <= 1 ? undefined : "a share from 0 to 1")
}

class MadeNode<A> implements Node<A> {
  readonly [NodeTypeId] = true
  readonly definition: NodeDefinition
  constructor(definition: NodeDefinition) {
    this.definition = definition
  }
  named(name: string): Node<A> {
    if (name === "") throw new PipelineError({ message: "the name of a node is empty. Give it one, or leave named() out." })
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
 * A file or folder of the user's, or the files of a pattern ("data/*.parquet"), by content: path, owner and times do not count. Relative paths are from the
 * working directory. "hf:owner/name@revision:path" is a model on the Hugging Face Hub, "hf:datasets/owner/name@revision:path" a data set there, by its commit.
 */
export const fileAt = (path: string): Node<ExternalFile> => {
  // It would stand for the working directory, all of which would be read.
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
