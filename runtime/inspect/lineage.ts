/**
 * An artifact's origin and uses, from the journal alone, so that it also works for deleted objects. Edges are contents, as in cache keys: whatever
 * was made from an artifact counts as made from every other artifact with the same content.
 */
import * as Effect from "effect/Effect"
import type { PipelineError, StoreError } from "../errors.ts"
import { own } from "../../schemas/own.ts"
import { digestFile } from "../key/file-source.ts"
import type { PastExecution } from "../store/executions.ts"
import { Journal, type JournalTables } from "../store/journal.ts"
import { locate } from "./resolve.ts"

/** An artifact or a user's file, by content. */
export interface Named {
  readonly kind: "artifact" | "file"
  /** null for a file. */
  readonly digest: string | null
  readonly contentDigest: string
  readonly type: string
  /** The node that had it as its result, or the file's name. */
  readonly name: string
}

/** The run, code and data that made an artifact. */
export interface Making {
  readonly run: string
  readonly pipeline: string
  readonly node: string
  readonly stage: string
  readonly at: number
  readonly milliseconds: number
  readonly key: string
  readonly config: Readonly<Record<string, unknown>>
  readonly seed: number | null
  readonly code: string
  /** Files with digests, packages with versions. */
  readonly files: Readonly<Record<string, string>>
  readonly numerics: Readonly<Record<string, string>> | null
  readonly inputs: ReadonlyArray<{ readonly port: string; readonly input: Named }>
}

export interface LineageEntry extends Named {
  /** Number of steps from the starting artifact. */
  readonly depth: number
  /** The port through which it is connected to the previous entry. */
  readonly port: string
  /** Its own neighbours at its first occurrence; undefined if they were listed before. */
  readonly next: ReadonlyArray<LineageEntry> | undefined
}

/** Resolves a name to an artifact or a user's file (resolve.ts). */
export const resolveArtifact = (text: string): Effect.Effect<Named, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const located = yield* locate(text)
    if (located.kind === "artifact") return yield* journal.read((tables) => nameOf(located.digest, tables, located.execution?.node)!)
    const { digest } = yield* digestFile(located.path, journal)
    return { kind: "file", digest: null, contentDigest: digest, type: "file", name: located.path }
  })

/** An artifact by its digest, under a node's name: if it is the result of several nodes, the last one by default. */
const nameOf = (digest: string, journal: JournalTables, node?: string): Named | undefined => {
  const known = journal.artifact(digest)
  const last = journal.executionsWith(digest, "any").at(-1)
  if (known === undefined && last === undefined) return undefined
  return {
    kind: "artifact",
    digest,
    contentDigest: known?.contentDigest ?? "",
    type: known?.type ?? "unknown",
    name: node ?? last?.node ?? "unknown"
  }
}

/** An input of an execution: its content, and the id and file of its node if the execution's trace still has them. */
interface Input {
  readonly content: string
  readonly wire: string | undefined
  readonly path: string | undefined
}

/** Resolves a run's input: an artifact (this run's, if several have the same content) or a file. */
const ofContent = ({ content, path, wire }: Input, run: string, journal: JournalTables): Named => {
  const candidates = journal.artifactsOfContent(content)
  const chosen =
    candidates.length <= 1
      ? candidates[0]
      : (candidates.find(({ digest }) => journal.executionsWith(digest, "any").some((execution) => execution.run === run)) ?? candidates[0])
  if (chosen !== undefined) return nameOf(chosen.digest, journal, wire)!
  const paths = journal.filesOfContent(content)
  const known = paths.length > 1 ? `one of ${paths.join(", ")}` : paths[0]
  return { kind: "file", digest: null, contentDigest: content, type: "file", name: path ?? known ?? wire ?? "a file" }
}

const makingOf = (execution: PastExecution, journal: JournalTables): Making => {
  const { parts } = execution
  // The trace, if it still exists, has the wires' names and the input files of the run that made it.
  const provenance = journal.provenance(execution.key) ?? {}
  const wires = (provenance.inputs ?? {}) as Readonly<Record<string, string | ReadonlyArray<string> | null>>
  const paths = (provenance.run === execution.run ? (provenance.paths ?? {}) : {}) as Readonly<Record<string, string>>
  return {
    run: execution.run,
    pipeline: execution.pipeline,
    node: execution.node,
    stage: execution.stage,
    at: execution.at,
    milliseconds: execution.milliseconds,
    key: execution.key,
    config: parts.config,
    seed: parts.seed,
    code: parts.code,
    files: execution.files,
    numerics: parts.numerics,
    inputs: Object.entries(parts.inputs).flatMap(([port, contents]) =>
      [contents ?? []].flat().map((content, i) => {
        const wire = [own(wires, port) ?? []].flat()[i]
        return {
          port,
          input: ofContent({ content, wire, path: wire === undefined ? undefined : own(paths, wire) }, execution.run, journal)
        }
      })
    )
  }
}

/** The executions that made an artifact, oldest first: several if a stage ran again with the same result. */
export const makings = (digest: string): Effect.Effect<Array<Making>, StoreError, Journal> =>
  Journal.use((journal) => journal.read((tables) => tables.executionsWith(digest).map((execution) => makingOf(execution, tables))))

type Step = (of: Named) => ReadonlyArray<{ readonly port: string; readonly named: Named }>

/** Follows a step to its end; each item's neighbours are listed once, so that the tree is no larger than the graph. */
const follow = (start: Named, step: Step, depth: number): Array<LineageEntry> => {
  const seen = new Set([start.contentDigest])
  const from = (of: Named, at: number): Array<LineageEntry> =>
    step(of).map(({ port, named }) => {
      const first = !seen.has(named.contentDigest)
      seen.add(named.contentDigest)
      return { ...named, depth: at, port, next: first ? (at < depth ? from(named, at + 1) : []) : undefined }
    })
  return depth < 1 ? [] : from(start, 1)
}

/** What it was made from, recursively. */
export const ancestry = (start: Named, depth = Infinity): Effect.Effect<Array<LineageEntry>, StoreError, Journal> =>
  followIn(start, depth, (tables, { digest }) => {
    const [execution] = digest === null ? [] : tables.executionsWith(digest)
    return execution === undefined ? [] : makingOf(execution, tables).inputs.map(({ port, input }) => ({ port, named: input }))
  })

/** What was made from it, recursively. */
export const descent = (start: Named, depth = Infinity): Effect.Effect<Array<LineageEntry>, StoreError, Journal> =>
  followIn(start, depth, (tables, { contentDigest }) => {
    const found = new Map<string, { readonly port: string; readonly named: Named }>()
    for (const { digest, parts, node } of tables.executionsFrom(contentDigest)) {
      if (digest === null || found.has(digest)) continue
      const port = Object.entries(parts.inputs).find(([, contents]) => [contents ?? []].flat().includes(contentDigest))?.[0] ?? ""
      found.set(digest, { port, named: nameOf(digest, tables, node)! })
    }
    return [...found.values()]
  })

const followIn = (
  start: Named,
  depth: number,
  step: (tables: JournalTables, of: Named) => ReturnType<Step>
): Effect.Effect<Array<LineageEntry>, StoreError, Journal> =>
  Journal.use((journal) => journal.read((tables) => follow(start, (of) => step(tables, of), depth)))

/** Everything in a lineage, once. */
export const flatten = (entries: ReadonlyArray<LineageEntry>): Array<LineageEntry> => {
  const found = new Map<string, LineageEntry>()
  const open = [...entries]
  for (let next = open.shift(); next !== undefined; next = open.shift()) {
    const id = next.digest ?? next.contentDigest
    if (!found.has(id)) found.set(id, next)
    open.push(...(next.next ?? []))
  }
  return [...found.values()]
}
