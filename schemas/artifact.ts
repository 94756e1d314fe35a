/**
 * Artifacts: what stages exchange. An artifact is an immutable directory; its type says what must be in it, and is checked when it is written
 * and when it is read. The phantom parameter keeps a reward model from being wired where a policy belongs.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ExplainedError } from "./explained-error.ts"

export interface Dataset<out Row> {
  readonly kind: "dataset"
  readonly row: Row
}
export type Role = "policy" | "helpfulness-reward" | "safety-reward" | "general-reward" | "value" | "safety-classifier"
export interface Checkpoint<out R extends Role> {
  readonly kind: "checkpoint"
  readonly role: R
}
export interface TokenizerFiles {
  readonly kind: "tokenizer"
}
export interface Report<out Content> {
  readonly kind: "report"
  readonly content: Content
}
/** A file or folder outside the store, named by the user. */
export interface ExternalFile {
  readonly kind: "file"
}
export type Artifact = Dataset<unknown> | Checkpoint<Role> | TokenizerFiles | Report<unknown> | ExternalFile

/** An artifact is not what it should be: what was being done, what was expected, what was found, what to do. */
export class ArtifactError extends ExplainedError<ArtifactError>()("ArtifactError") {}

/** A kind of artifact: what a port takes or a stage gives. */
export interface ArtifactType<out A> {
  readonly kind: Artifact["kind"] | "sidecar"
  /** Distinct per type, with a version: "dataset:preference/1". Written into the artifact's manifest. */
  readonly name: string
  /** Whether a port of this type takes an artifact of that name (a port may take either reward model). */
  readonly accepts: (name: string) => boolean
  /** Checks that the directory holds an artifact of this type. */
  readonly validate: (directory: string) => Effect.Effect<void, ArtifactError>
  /** The digest of what it means rather than of its bytes, where the two differ; else the digest of its files serves. */
  readonly contentDigest?: (directory: string) => Effect.Effect<string, ArtifactError>
  readonly Artifact?: A | undefined
}

/** A dataset type knows the schema of its rows. */
export interface DatasetType<out Row> extends ArtifactType<Dataset<Row>> {
  readonly row: Schema.Codec<Row, any>
}

/** A report type knows the schema of its content. */
export interface ReportType<out Content> extends ArtifactType<Report<Content>> {
  readonly content: Schema.Codec<Content, any>
}

/** An artifact in the store, as a running stage gets it. `path` is its directory (for an external file: the file). */
export interface ArtifactRef<out A> {
  readonly path: string
  /** The type's name. */
  readonly type: string
  readonly digest: string
  readonly contentDigest: string
  readonly Artifact?: A | undefined
}

/** Where a running stage writes its output: an empty directory. */
export interface OutputSlot<A> {
  readonly path: string
  readonly type: ArtifactType<A>
}

/** Proof that a slot was filled; made by the writers (writeDataset, writeReport, saveCheckpoint, saveTokenizer). */
export interface Written<A> {
  readonly slot: OutputSlot<A>
  /** Numbers worth keeping beside the result: they go to the trace. */
  readonly metrics: Readonly<Record<string, number>>
}

export const written = <A>(slot: OutputSlot<A>, metrics: Readonly<Record<string, number>> = {}): Written<A> => ({ slot, metrics })

/** A file or folder of the user's. */
export const External: ArtifactType<ExternalFile> = {
  kind: "file",
  name: "file",
  accepts: (other) => other === "file",
  validate: () => Effect.void
}
