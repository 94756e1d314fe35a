/** The results that a run made or reused, as the report reads them: each with its node, its config and its inputs. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { readReport, readRows, streamRows } from "../../data/dataset.ts"
import type { ArtifactError, ArtifactRef, DatasetType, ReportType } from "../../schemas/artifact.ts"

export interface Result {
  readonly node: string
  readonly stage: string
  /** The artifact's type, "report:world-summary/3". */
  readonly type: string
  /** Its folder. */
  readonly path: string
  readonly digest: string
  readonly contentDigest: string
  readonly config: Readonly<Record<string, unknown>>
  /** Nodes by port; null for an open port. The user's files are not results. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
}

const refOf = ({ contentDigest, digest, path, type }: Result): ArtifactRef<never> => ({ path, type, digest, contentDigest })

/** The results of a run, inputs first. Files are read once. */
export class Results {
  readonly #byNode: ReadonlyMap<string, Result>
  readonly #read = new Map<string, unknown>()
  readonly all: ReadonlyArray<Result>
  /** Names of policies that the run calls controls. */
  readonly controls: ReadonlySet<string>
  constructor(all: ReadonlyArray<Result>, controls: Iterable<string> = []) {
    this.all = all
    this.controls = new Set(controls)
    this.#byNode = new Map(all.map((one) => [one.node, one]))
  }

  /** Whether it is a run on the generated small world, whose oracle knows the right answers. */
  get isWorld(): boolean {
    return this.all.some(({ stage }) => stage.startsWith("world-"))
  }
  /** Results of any of these stages, in the order of the graph. */
  of(...stages: ReadonlyArray<string>): ReadonlyArray<Result> {
    return this.all.filter(({ stage }) => stages.includes(stage))
  }
  ofType({ name }: { readonly name: string }): ReadonlyArray<Result> {
    return this.all.filter(({ type }) => type === name)
  }
  /** The results wired to a port; empty if it is open or the result no longer exists. */
  inputs(result: Result, port: string): ReadonlyArray<Result> {
    const wired = Object.hasOwn(result.inputs, port) ? result.inputs[port] : null
    return [wired ?? []].flat().flatMap((node) => this.#byNode.get(node) ?? [])
  }
  input(result: Result | undefined, port: string): Result | undefined {
    return result === undefined ? undefined : this.inputs(result, port)[0]
  }
  /** A result's index in the graph's order. */
  place(result: Result): number {
    return this.all.indexOf(result)
  }

  #once<A>(key: string, read: Effect.Effect<A, ArtifactError>): Effect.Effect<A, ArtifactError> {
    return Effect.suspend(() =>
      this.#read.has(key)
        ? Effect.succeed(this.#read.get(key) as A)
        : Effect.tap(read, (value) => Effect.sync(() => void this.#read.set(key, value)))
    )
  }
  report<Content>(result: Result, type: ReportType<Content>): Effect.Effect<Content, ArtifactError> {
    return this.#once(result.digest, readReport(refOf(result), type))
  }
  /** All reports of a type, each with its result. */
  reports<Content>(type: ReportType<Content>): Effect.Effect<ReadonlyArray<Result & { readonly content: Content }>, ArtifactError> {
    return Effect.forEach(this.ofType(type), (one) => Effect.map(this.report(one, type), (content) => ({ ...one, content })))
  }
  rows<Row>(result: Result, type: DatasetType<Row>): Effect.Effect<ReadonlyArray<Row>, ArtifactError> {
    return this.#once(result.digest, readRows(refOf(result), type))
  }
  /** The given fields of the rows; other fields are not decoded. */
  fields<Row, Field extends keyof Row & string>(
    result: Result,
    type: DatasetType<Row>,
    fields: ReadonlyArray<Field>
  ): Effect.Effect<ReadonlyArray<Pick<Row, Field>>, ArtifactError> {
    return this.#once(`${result.digest} ${fields.join(" ")}`, Stream.runCollect(streamRows(refOf(result), type, fields)))
  }
}
