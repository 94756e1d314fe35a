/**
 * Artifacts: the values that stages exchange. An artifact is an immutable directory. Its type specifies the required contents, which are checked when
 * the artifact is written and when it is read. A phantom type parameter makes it a compile-time error to pass a reward model where a policy belongs.
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

/** An artifact is invalid: what was being done, what was expected, what was found, what to do. */
export class ArtifactError extends ExplainedError<ArtifactError>()("ArtifactError") {}

/** A type of artifact: what a port accepts or a stage produces. */
export interface ArtifactType<out A> {
  readonly kind: Artifact["kind"] | "sidecar"
  /** Unique per type, with a version: "dataset:preference/1". Written to the artifact's manifest. */
  readonly name: string
  /** Whether a port of this type accepts an artifact whose type has that name (a port may accept either reward model). */
  readonly accepts: (name: string) => boolean
  /** Checks that the directory holds an artifact of this type. */
  readonly validate: (directory: string) => Effect.Effect<void, ArtifactError>
  /** The digest of the content rather than of the bytes, if the two differ; otherwise the digest of the files is used. */
  readonly contentDigest?: (directory: string) => Effect.Effect<string, ArtifactError>
  readonly Artifact?: A | undefined
}

/** A dataset type holds the schema of its rows. */
export interface DatasetType<out Row> extends ArtifactType<Dataset<Row>> {
  readonly row: Schema.Codec<Row, any>
}

/** A report type holds the schema of its content. */
export interface ReportType<out Content> extends ArtifactType<Report<Content>> {
  readonly content: Schema.Codec<Content, any>
}

/** An artifact in the store, as a running stage receives it. `path` is its directory (for an external file: the file itself). */
export interface ArtifactRef<out A> {
  readonly path: string
  /** The type's name. */
  readonly type: string
  readonly digest: string
  readonly contentDigest: string
  readonly Artifact?: A | undefined
}

/** The output of a running stage: an empty directory to write to. */
export interface OutputSlot<A> {
  readonly path: string
  readonly type: ArtifactType<A>
}

/** Proof that a slot was filled; only the writers create it (writeDataset, writeReport, saveCheckpoint, saveTokenizer). */
export interface Written<A> {
  readonly slot: OutputSlot<A>
  /** Numbers worth keeping with the result; they are stored in its trace. */
  readonly metrics: Readonly<Record<string, number>>
}

export const written = <A>(slot: OutputSlot<A>, metrics: Readonly<Record<string, number>> = {}): Written<A> => ({ slot, metrics })

/** One of the user's files or folders. */
export const External: ArtifactType<ExternalFile> = {
  kind: "file",
  name: "file",
  accepts: (other) => other === "file",
  validate: () => Effect.void
}
