/**
 * Where an artifact comes from and what came of it, from the journal alone: it answers for artifacts whose objects were collected long ago. Edges
 * are contents, as in cache keys: what was made of an artifact was made of every other one that says the same.
 */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { digestFile } from "../key/file-source.ts"
import type { PastExecution } from "../store/executions.ts"
import { Journal, type JournalTables } from "../store/journal.ts"

/** An artifact or a file of the user's, by content. */
export interface Named {
  readonly kind: "artifact" | "file"
  /** null for a file. */
  readonly digest: string | null
  readonly contentDigest: string
  readonly type: string
  /** The node whose result it was, or the file's name. */
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
  /** How many steps from the artifact asked for. */
  readonly depth: number
  /** What it is in relation to the one it was reached from: the port. */
  readonly port: string
  /** Its own neighbours, when it is here for the first time; undefined when they were listed before. */
  readonly next: ReadonlyArray<LineageEntry> | undefined
}

/** The nearest name; not the list of all, which may be long. */
const nearest = (word: string, names: ReadonlyArray<string>): string => {
  const found = didYouMean(word, names)
  return names.length > 20 && found.startsWith(" There are") ? "" : found
}

const short = (digest: string): string => digest.slice(0, 12)

/** The artifact that a user means: by digest or its beginning, a path in the store, "node", "pipeline:node" or "run:node"; or a file. */
export const resolveArtifact = (text: string): Effect.Effect<Named, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const named = (digest: string, node?: string) => journal.read((tables) => nameOf(digest, tables, node)!)
    const fail = (what: string) => new PipelineError({ message: `Looking for the artifact "${text}": ${what}` })
    const inStore = /objects\/[0-9a-f]{2}\/([0-9a-f]{64})(?:\/|$)/.exec(text)
    const prefix = inStore?.[1] ?? (/^[0-9a-f]{4,64}$/.test(text) ? text : undefined)
    if (prefix !== undefined) {
      const found = yield* journal.artifactsLike(prefix)
      if (found.length === 1) return yield* named(found[0]!.digest)
      if (found.length > 1)
        return yield* fail(
          `${found.length} begin so: ${found
            .slice(0, 8)
            .map(({ digest }) => short(digest))
            .join(", ")}. Give more of it.`
        )
      if (inStore !== null || prefix.length >= 12)
        return yield* fail("the journal knows no such digest. `caravan du --json` lists what is in the store.")
    }
    // A run's or a pipeline's node, then a node of any.
    const colon = text.indexOf(":")
    const byNode = (node: string) => journal.lastOfNode(node, ["hit", "ran"])
    let executions: ReadonlyArray<PastExecution> = yield* byNode(text)
    if (executions.length === 0 && colon > 0) {
      const [owner, node] = [text.slice(0, colon), text.slice(colon + 1)]
      executions = (yield* byNode(node)).filter(({ pipeline }) => pipeline === owner)
      if (executions.length === 0) {
        const runs = /^[0-9a-f-]{4,36}$/.test(owner) ? yield* journal.runsLike(owner) : []
        if (runs.length > 1) return yield* fail(`${runs.length} runs begin with ${owner}. Give more of it.`)
        if (runs.length === 1) {
          const { asked } = runs[0]!
          // An output's name does as well.
          const id = (asked as { readonly outputs?: Record<string, string> } | null)?.outputs?.[node] ?? node
          executions = (yield* journal.executionsOf(runs[0]!.id)).filter((execution) => execution.node === id && execution.digest !== null)
        }
      }
    }
    const pipelines = new Set(executions.map(({ pipeline }) => pipeline))
    if (pipelines.size > 1)
      return yield* fail(`several pipelines have such a node: ${[...pipelines].map((name) => `${name}:${text}`).join(", ")}. Say which.`)
    if (executions.length > 0) return yield* named(executions[0]!.digest!, executions[0]!.node)
    if (existsSync(text)) {
      const path = resolve(text)
      const { digest } = yield* digestFile(path, journal)
      return { kind: "file", digest: null, contentDigest: digest, type: "file", name: path }
    }
    return yield* fail(
      `expected a digest (or how it begins), a path in the store, a node, pipeline:node or run:node.${nearest(text, yield* journal.nodeNames())}`
    )
  })

/** An artifact by its digest, under the name of a node: one artifact may be the result of several; the last one's unless told. */
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

/** What a content digest of a key stands for: an artifact (that of this run, where several say the same), or a file. */
const ofContent = (content: string, run: string, wire: string | undefined, journal: JournalTables): Named => {
  const candidates = journal.artifactsOfContent(content)
  const chosen =
    candidates.length <= 1
      ? candidates[0]
      : (candidates.find(({ digest }) => journal.executionsWith(digest, "any").some((execution) => execution.run === run)) ?? candidates[0])
  if (chosen !== undefined) return nameOf(chosen.digest, journal, wire)!
  const path = journal.filesOfContent(content)[0]
  return { kind: "file", digest: null, contentDigest: content, type: "file", name: path ?? wire ?? "a file" }
}

const makingOf = (execution: PastExecution, journal: JournalTables): Making => {
  const { parts } = execution
  // The trace, while it is there, has the wires' names.
  const wires = (journal.provenance(execution.key)?.inputs ?? {}) as Readonly<Record<string, string | ReadonlyArray<string> | null>>
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
      [contents ?? []].flat().map((content, i) => ({
        port,
        input: ofContent(content, execution.run, [wires[port] ?? []].flat()[i], journal)
      }))
    )
  }
}

/** Who made an artifact, the first first: more than one when a stage ran again and came out the same. */
export const makings = (digest: string): Effect.Effect<Array<Making>, StoreError, Journal> =>
  Journal.use((journal) => journal.read((tables) => tables.executionsWith(digest).map((execution) => makingOf(execution, tables))))

type Step = (of: Named) => ReadonlyArray<{ readonly port: string; readonly named: Named }>

/** Follows a step to its end; each thing's own neighbours are listed once, so that the whole is no larger than the graph. */
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

/** What it was made from, and what that was made from. */
export const ancestry = (start: Named, depth = Infinity): Effect.Effect<Array<LineageEntry>, StoreError, Journal> =>
  followIn(start, depth, (tables, { digest }) => {
    const [execution] = digest === null ? [] : tables.executionsWith(digest)
    return execution === undefined ? [] : makingOf(execution, tables).inputs.map(({ port, input }) => ({ port, named: input }))
  })

/** What was made of it, and of that. */
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
