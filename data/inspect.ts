/** Summarises a user's files: format, shape, columns, rows, problems, lengths, duplicates, examples. Reads them once in bounded memory. */
import { ArtifactError } from "../schemas/artifact.ts"
import { own } from "../schemas/own.ts"
import type { Message, Preference, Prompt } from "../schemas/rows.ts"
import { DigestSet } from "./digest-set.ts"
import type { DataFile } from "./read/files.ts"
import { dataFiles } from "./read/files.ts"
import { newCounts, recordBatches } from "./records.ts"
import { BadLabel } from "./shapes/fields.ts"
import type { Look } from "./shapes/look.ts"
import { lookAtPath, readShaped, type Reading } from "./shapes/shaped.ts"
import { type Given, type Kind, kindsOf, type Shape, shapeNamed, shapeOf } from "./shapes/shapes.ts"

/** The kinds of problems that stop an import. */
export const invalidFile = "invalid file"
export const invalidLabel = "a rating or label outside its set"

export interface Problem {
  readonly file: string
  /** The line or row, from 1; null if the problem concerns the complete file. */
  readonly line: number | null
  readonly field: string | null
  readonly reason: string
}

/** Statistics of a set of values: count, mean, median (of a sample of at most 10,000) and maximum. */
export interface Lengths {
  readonly mean: number
  readonly median: number
  readonly most: number
}

export interface Inspection {
  /** "jsonl", "parquet", ...; "several" if the files differ; null if none can be read. */
  readonly format: string | null
  readonly shape: string | null
  /** The fields of a row of this shape. */
  readonly form: string | null
  /** The kinds of rows that it can be imported as. */
  readonly gives: ReadonlyArray<Kind>
  readonly files: ReadonlyArray<{
    readonly file: string
    readonly format: string | null
    readonly compression: string
    readonly shape: string | null
    readonly rows: number
  }>
  /** Number of rows in the files. */
  readonly rows: number
  readonly columns: ReadonlyArray<{
    readonly name: string
    readonly type: string
    /** Rows in which it is missing or null. */ readonly missing: number
  }>
  /** The first problems; `problemCounts` counts all of them by reason. */
  readonly problems: ReadonlyArray<Problem>
  readonly problemCounts: Readonly<Record<string, number>>
  /** Rows without the required information, such as ties, by reason. */
  readonly leftOut: Readonly<Record<string, number>>
  /** Statistics of the imported rows, for the first kind of `gives`. */
  readonly given: {
    readonly kind: Kind
    readonly rows: number
    /** Exact repetitions of earlier rows; and rows that repeat a prompt with another answer. */
    readonly duplicates: number
    readonly repeatedPrompts: number
    /** As in table 6: user messages per dialogue; lengths, in `unit`, of the dialogue, of the last prompt, of the answers. */
    readonly turns: Lengths | null
    readonly unit: "characters" | "tokens"
    readonly example: Lengths | null
    readonly prompt: Lengths | null
    readonly response: Lengths | null
    /** For pairs: the number with each rating and with each pair of labels (chosen, rejected). */
    readonly ratings: Readonly<Record<string, number>> | null
    readonly safety: Readonly<Record<string, number>> | null
    readonly examples: ReadonlyArray<unknown>
  } | null
}

export interface InspectOptions extends Pick<Reading, "shape" | "map" | "documents"> {
  /** Counts tokens, if a tokenizer is given. */
  readonly tokens?: ((text: string) => number) | undefined
  /** Converts a row as an import would, or throws BadRow if an import would reject it. */
  readonly check: { readonly [K in Kind]: (row: Given[K]) => K extends "prompts" ? Pick<Prompt, "messages"> : Given[K] }
  /** Maximum number of examples, and of problems, to show. */
  readonly examples: number
  readonly problems: number
}

/** Collects numbers: mean, maximum, and a sample for the median. Deterministic: keeps every n-th number once there are many. */
class Gathered {
  #count = 0
  #sum = 0
  #most = 0
  #step = 1
  #sample: Array<number> = []
  add(value: number): void {
    if (this.#count++ % this.#step === 0) {
      this.#sample.push(value)
      if (this.#sample.length === 10_000) {
        this.#sample = this.#sample.filter((_, i) => i % 2 === 0)
        this.#step *= 2
      }
    }
    this.#sum += value
    this.#most = Math.max(this.#most, value)
  }
  get lengths(): Lengths | null {
    if (this.#count === 0) return null
    const sorted = this.#sample.toSorted((a, b) => a - b)
    return { mean: this.#sum / this.#count, median: sorted[sorted.length >> 1]!, most: this.#most }
  }
}

const countIn = (counts: Map<string, number>, name: string): void => void counts.set(name, (counts.get(name) ?? 0) + 1)

/** Splits a row into prompt and answers. */
const partsOf = (kind: Kind, row: unknown): { readonly prompt: ReadonlyArray<Message>; readonly answers: ReadonlyArray<string> } => {
  if (kind === "preferences") {
    const { chosen, prompt, rejected } = row as Preference
    return { prompt, answers: [chosen, rejected] }
  }
  if (kind === "texts") return { prompt: [], answers: [(row as { readonly text: string }).text] }
  const { messages } = row as { readonly messages: ReadonlyArray<Message> }
  return kind === "prompts" ? { prompt: messages, answers: [] } : { prompt: messages.slice(0, -1), answers: [messages.at(-1)!.content] }
}

/** Statistics of the rows that the files give. */
class Tally {
  readonly #kind: Kind
  readonly #options: InspectOptions
  readonly #seen = new DigestSet()
  readonly #prompts = new DigestSet()
  readonly #lengths = { turns: new Gathered(), example: new Gathered(), prompt: new Gathered(), response: new Gathered() }
  readonly #ratings = new Map<string, number>()
  readonly #safety = new Map<string, number>()
  readonly #examples: Array<unknown> = []
  #rows = 0
  #repeated = 0
  #duplicates = 0
  constructor(kind: Kind, options: InspectOptions) {
    this.#kind = kind
    this.#options = options
  }
  add(row: unknown): void {
    this.#rows++
    if (this.#examples.length < this.#options.examples) this.#examples.push(row)
    const { answers, prompt } = partsOf(this.#kind, row)
    const asked = JSON.stringify(prompt.map(({ content, role }) => [role, content]))
    const isNew = this.#seen.add(JSON.stringify([asked, answers]))
    if (!isNew) this.#duplicates++
    if (this.#kind !== "texts" && !this.#prompts.add(asked) && isNew) this.#repeated++
    const length = this.#options.tokens ?? ((text: string) => text.length)
    const before = prompt.map(({ content }) => length(content))
    const total = before.reduce((sum, each) => sum + each, 0)
    const { example, prompt: asking, response, turns } = this.#lengths
    if (this.#kind !== "texts") turns.add(prompt.filter(({ role }) => role === "user").length)
    if (before.length > 0) asking.add(before.at(-1)!)
    for (const answer of answers) {
      const answered = length(answer)
      response.add(answered)
      example.add(total + answered)
    }
    if (this.#kind !== "preferences") return
    const { chosenSafe, rating, rejectedSafe } = row as Preference
    countIn(this.#ratings, rating === null ? "none" : `${rating}`)
    const said = (safe: boolean | null) => (safe === null ? "unlabelled" : safe ? "safe" : "unsafe")
    countIn(this.#safety, `${said(chosenSafe)}, ${said(rejectedSafe)}`)
  }
  get told(): NonNullable<Inspection["given"]> {
    const { example, prompt, response, turns } = this.#lengths
    const counts = (of: Map<string, number>) => Object.fromEntries([...of].sort(([a], [b]) => (a < b ? -1 : 1)))
    const isPairs = this.#kind === "preferences"
    return {
      kind: this.#kind,
      rows: this.#rows,
      duplicates: this.#duplicates,
      repeatedPrompts: this.#repeated,
      turns: turns.lengths,
      unit: this.#options.tokens === undefined ? "characters" : "tokens",
      example: example.lengths,
      prompt: prompt.lengths,
      response: response.lengths,
      ratings: isPairs ? counts(this.#ratings) : null,
      safety: isPairs ? counts(this.#safety) : null,
      examples: this.#examples
    }
  }
}

/** A file that was inspected. */
interface Seen {
  readonly file: DataFile
  readonly look: Look
  readonly shape: Shape | undefined
  format: string | null
  compression: string
  columns: ReadonlyMap<string, string>
  rows: number
}

/** Whether the file declares its columns, instead of their being inferred from rows. */
const isTyped = ({ format }: Seen): boolean => ["csv", "tsv", "parquet", "arrow"].includes(format ?? "")

const causeOf = (cause: unknown): string => {
  if (cause instanceof ArtifactError) return cause.message
  throw cause
}

/** Inspects files, folders and patterns as one set of rows. Rejects with an ArtifactError if a path has no files. */
export const inspect = async (paths: ReadonlyArray<string>, options: InspectOptions): Promise<Inspection> => {
  const problems: Array<Problem> = []
  const problemCounts = new Map<string, number>()
  const leftOut = new Map<string, number>()
  const tell = (problem: Problem, kind = problem.line === null ? invalidFile : problem.reason) => {
    countIn(problemCounts, kind)
    if (problems.length < options.problems) problems.push(problem)
  }
  const seen: Array<Seen> = []
  for (const path of paths)
    for (const file of await dataFiles(path))
      try {
        const look = await lookAtPath(file.path, options)
        const shape = options.shape === "auto" ? shapeOf(look) : shapeNamed(options.shape)
        seen.push({ file, look, shape, format: null, compression: "none", columns: look.columns, rows: 0 })
        if (shape === undefined)
          tell({
            file: file.path,
            line: null,
            field: null,
            reason:
              look.columns.size === 0
                ? "no known shape: no row has columns"
                : `no known shape has the columns ${[...look.columns.keys()].join(", ")}`
          })
      } catch (cause) {
        tell({ file: file.path, line: null, field: null, reason: causeOf(cause) })
      }
  const shapes = new Set(seen.map(({ shape }) => shape))
  const [shape] = shapes.size === 1 ? shapes : []
  if (shapes.size > 1)
    tell({
      file: paths.join(", "),
      line: null,
      field: null,
      reason: `files of several shapes: ${[...shapes].map((each) => each?.name ?? "none").join(", ")}`
    })
  const kind = shape === undefined ? undefined : kindsOf(shape)[0]
  const tally = kind === undefined ? undefined : new Tally(kind, options)
  const missing = new Map<string, number>()
  for (const each of seen) {
    try {
      for await (const { columns, compression, format, records } of recordBatches(each.file.path, { documents: options.documents })) {
        Object.assign(each, { format, compression, rows: each.rows + records.length })
        if (columns !== undefined) each.columns = new Map(columns.map(({ name, type }) => [name, type]))
        for (const { fault, line, value } of records) {
          if (fault !== undefined && tally === undefined)
            tell({ file: each.file.path, line, field: fault.field, reason: fault.message }, fault.reason)
          if (fault !== undefined || typeof value !== "object" || value === null) continue
          for (const name of each.columns.keys()) if ((own(value as Record<string, unknown>, name) ?? null) === null) countIn(missing, name)
        }
      }
      if (tally === undefined || kind === undefined || shape === undefined) continue
      const counts = newCounts()
      const reading: Reading = { shape: shape.name, map: options.map, documents: options.documents }
      const judged = { source: shape.name, judgement: "helpfulness" as const, thresholds: undefined, pairs: "all" as const }
      const batches = readShaped(
        each.file.path,
        shape,
        kind,
        reading,
        judged,
        options.check[kind] as (row: Given[Kind]) => unknown,
        counts,
        {
          leaveOut: (reason) => countIn(leftOut, reason),
          skip: ({ line }, { field, message, reason }) => tell({ file: each.file.path, line, field, reason: message }, reason)
        }
      )
      for await (const rows of batches) for (const row of rows) tally.add(row)
    } catch (cause) {
      if (cause instanceof BadLabel)
        tell({ file: each.file.path, line: cause.line, field: cause.field, reason: cause.message }, invalidLabel)
      else tell({ file: each.file.path, line: null, field: null, reason: causeOf(cause) })
    }
  }
  const first = seen.find(({ rows }) => rows > 0)
  for (const other of seen)
    for (const [name, type] of first !== undefined && other !== first && isTyped(other) && isTyped(first) ? first.columns : [])
      if (other.columns.get(name) !== type && ![type, other.columns.get(name)].includes("null"))
        tell({
          file: other.file.path,
          line: null,
          field: name,
          reason: `${other.columns.get(name) ?? "missing"}, in ${first!.file.name} ${type}`
        })
  const formats = new Set(seen.map(({ format }) => format))
  return {
    format: formats.size === 1 ? [...formats][0]! : formats.size === 0 ? null : "several",
    shape: shape?.name ?? null,
    form: shape?.form ?? null,
    gives: shape === undefined ? [] : kindsOf(shape),
    files: seen.map(({ compression, file, format, rows, shape: of }) => ({
      file: file.path,
      format,
      compression,
      shape: of?.name ?? null,
      rows
    })),
    rows: seen.reduce((sum, { rows }) => sum + rows, 0),
    columns: [...(first?.columns ?? [])].map(([name, type]) => ({ name, type, missing: missing.get(name) ?? 0 })),
    problems,
    problemCounts: Object.fromEntries(problemCounts),
    leftOut: Object.fromEntries(leftOut),
    given: tally?.told ?? null
  }
}
