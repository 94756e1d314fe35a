/**
 * People as annotators: the pairs are written to a file, the run stops and says what is awaited, and goes on when the labels are there. A file of pairs that
 * holds anything but pairs of this batch is never written over: somebody may have labelled there.
 */
import { createHash } from "node:crypto"
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { ResponsePair } from "../../schemas/rows.ts"
import { AnnotationError, Annotator, type Kind, type Rating, type Verdict } from "./annotator.ts"

export interface FileOptions {
  /** The file of labels, where it is there yet. */
  readonly labels: string | undefined
  /** Where the pairs to label go. */
  readonly pairsFile: string
  /** Where labels that are made in the page go; empty: beside the pairs. */
  readonly labelsFile: string
  /** What to do with a file of labels, in the words of who wired the stage; empty: that it goes to the input `labels`. */
  readonly labelsHint: string
  readonly read: (path: string) => Promise<string>
  readonly write: (path: string, text: string) => Promise<void>
}

const ratings = ["significantly better", "better", "slightly better", "negligibly better or unsure"]

const exampleOf = (kind: Kind, id = "<id>"): string =>
  JSON.stringify({ id, choice: "A", rating: 1, ...(kind === "safety" ? { safeA: true, safeB: false } : {}) })

/** The format of a file of labels in full, with a pair that is awaited as the example. */
const howTo = (kind: Kind, id: string): string =>
  `one JSON object a line, as ${exampleOf(kind, id)}: id is the pair's as it is written there, choice "A" or "B" the better response, rating how much better (${ratings.map((name, i) => `${i} ${name}`).join(", ")})${kind === "safety" ? ", safeA and safeB whether each response is safe" : ""}; other fields are not read`

/** What a pair is called in the files: its id, and a digest of what was shown. A label is of these two responses and no others. */
export const labelId = ({ id, prompt, responseA, responseB }: ResponsePair): string =>
  `${id}-${createHash("sha256")
    .update(JSON.stringify([prompt, responseA, responseB]))
    .digest("hex")
    .slice(0, 12)}`

/** One line of labels. Throws an AnnotationError that names the line and the field. */
const parseLabel = (line: string, number: number, file: string, kind: Kind): { readonly id: string; readonly verdict: Verdict } => {
  const refuse = (field: string, expected: string, found: unknown): never => {
    throw new AnnotationError({
      message: `Reading labels from ${file}, line ${number}, ${field}: expected ${expected}, found ${found === undefined ? "no such field" : JSON.stringify(found).slice(0, 60)}. Fix the line and run again; a line is like ${exampleOf(kind)}.`
    })
  }
  let row: Record<string, unknown>
  try {
    row = JSON.parse(line) as Record<string, unknown>
  } catch {
    return refuse("the whole", "a JSON object", line)
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) return refuse("the whole", "a JSON object", row)
  const { id, choice, rating, safeA, safeB } = row
  if (typeof id !== "string") return refuse("id", "the id of a pair", id)
  if (choice !== "A" && choice !== "B") return refuse("choice", '"A" or "B"', choice)
  if (!Number.isInteger(rating) || !((rating as number) >= 0 && (rating as number) <= 3))
    return refuse("rating", `0, 1, 2 or 3 (${ratings.join(", ")})`, rating)
  for (const [field, value] of [
    ["safeA", safeA],
    ["safeB", safeB]
  ] as const)
    if (!(typeof value === "boolean" || ((value === null || value === undefined) && kind === "helpfulness")))
      return refuse(field, "true or false", value)
  const safe = (value: unknown) => (value ?? null) as boolean | null
  return { id, verdict: { choice, rating: rating as Rating, safeA: safe(safeA), safeB: safe(safeB) } }
}

/** People need not write JSON. */
const inThePage = ({ labelsFile }: FileOptions): string =>
  ` Or label them in a page: caravan ui --allow-control${labelsFile === "" ? "" : ` (labels go to ${labelsFile})`}.`

const some = (ids: ReadonlyArray<string>): string => `${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ` and ${ids.length - 5} more` : ""}`

/**
 * The labels of a file by `labelId`. Throws an AnnotationError for a line that does not fit, an id that is no pair's or was of other responses, or one that is
 * there twice.
 */
const parseLabels = (text: string, file: string, pairs: ReadonlyArray<ResponsePair>, kind: Kind): ReadonlyMap<string, Verdict> => {
  const labels = new Map<string, Verdict>()
  const ids = new Set(pairs.map(labelId))
  const prompts = new Set(pairs.map(({ id }) => id))
  // Some editors begin a file with a byte order mark.
  const lines = text.replace(/^\uFEFF/, "").split("\n")
  lines.forEach((line, i) => {
    if (line.trim() === "") return
    const { id, verdict } = parseLabel(line, i + 1, file, kind)
    const trouble = labels.has(id)
      ? "is labelled twice"
      : ids.has(id)
        ? undefined
        : prompts.has(id.slice(0, id.lastIndexOf("-")))
          ? "is a pair whose responses have changed since (another seed, model or setting made them anew): what was judged is not what would be learnt from"
          : "is no pair of this batch"
    if (trouble !== undefined)
      throw new AnnotationError({
        message: `Reading labels from ${file}, line ${i + 1}: ${JSON.stringify(id)} ${trouble}. Take the line out and run again.`
      })
    labels.set(id, verdict)
  })
  return labels
}

const lineOf = (pair: ResponsePair): string => {
  const { prompt, safety, category, responseA, responseB } = pair
  return JSON.stringify({ id: labelId(pair), prompt, safety, category, responseA, responseB })
}

/** Writes the pairs that are missing, unless the file is there with anything but pairs of this batch as they were written. */
const writePairs = async (
  { labels, pairsFile, read, write }: FileOptions,
  missing: ReadonlyArray<ResponsePair>,
  all: ReadonlyArray<ResponsePair>
): Promise<void> => {
  const text = missing.map((pair) => `${lineOf(pair)}\n`).join("")
  const there = await read(pairsFile).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return undefined
    throw cause
  })
  if (there === text) return
  const own = new Set(all.map(lineOf))
  const lines = there?.split("\n") ?? []
  const other = lines.findIndex((line) => line.trim() !== "" && !own.has(line))
  if (other !== -1)
    throw new AnnotationError({
      message: `Writing ${missing.length} pairs to label to ${pairsFile}: expected no such file, or one with pairs of this batch alone, found line ${other + 1}: ${lines[other]!.slice(0, 60)}. It was not written over, as it may hold labels: if it does, ${labels === undefined ? "move it to where labels go" : `add its labelled lines to ${labels} and move it away`}; if not, move it away. Then run again.`
    })
  await write(pairsFile, text)
}

export const fileAnnotator = (options: FileOptions): Layer.Layer<Annotator> =>
  Layer.succeed(Annotator, {
    compare: (pairs, kind) =>
      Effect.tryPromise({
        try: async () => {
          const { labels, labelsHint, pairsFile, read } = options
          const found = labels === undefined ? new Map<string, Verdict>() : parseLabels(await read(labels), labels, pairs, kind)
          const missing = pairs.filter((pair) => !found.has(labelId(pair)))
          if (missing.length === 0) return pairs.map((pair) => found.get(labelId(pair))!)
          const how = howTo(kind, labelId(missing[0]!))
          const names = some(missing.map(labelId))
          if (pairsFile === "")
            throw new AnnotationError({
              message: `${missing.length} pairs have no labels yet, and there is no file to write them to: set pairsFile to a path and run again.`
            })
          if (labels !== undefined && resolve(labels) === resolve(pairsFile))
            throw new AnnotationError({
              message: `Waiting for labels: ${labels} has ${found.size} of ${pairs.length}. Missing: ${names}; they can't be written to ${pairsFile}, which is the file of labels. Give the labels a file of their own, or pairsFile another path, and run again.`
            })
          await writePairs(options, missing, pairs)
          throw new AnnotationError({
            message:
              labels === undefined
                ? `Waiting for labels: ${missing.length} pairs are written to ${pairsFile}. Label each in a file of labels, ${how}. Then ${labelsHint === "" ? "give that file to the stage's input `labels`, and run again" : labelsHint}: everything before is kept.${inThePage(options)}`
                : `Waiting for labels: ${labels} has ${found.size} of ${pairs.length}. Missing: ${names}; they are written to ${pairsFile}. Add a line for each to ${labels}, ${how}. Then run again: everything before is kept.${inThePage(options)}`
          })
        },
        catch: (cause) =>
          cause instanceof AnnotationError
            ? cause
            : new AnnotationError({
                message: `Labelling by a file: ${cause instanceof Error ? cause.message : String(cause)}. Check the paths of labels and pairsFile, and that their folders are there.`
              })
      })
  })
