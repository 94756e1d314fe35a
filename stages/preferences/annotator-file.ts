/**
 * People as annotators: the pairs are written to a file, the run stops with instructions, and continues when the labels exist. A pairs file that
 * contains anything other than pairs of this batch is never overwritten: somebody may have added labels there.
 */
import { createHash } from "node:crypto"
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { messageOf } from "../../schemas/explained-error.ts"
import type { ResponsePair } from "../../schemas/rows.ts"
import { AnnotationError, Annotator, type Kind, type Rating, type Verdict } from "./annotator.ts"

export interface FileOptions {
  /** The file of labels, if it exists. */
  readonly labels: string | undefined
  /** Path for the pairs to label. */
  readonly pairsFile: string
  /** Path for labels made in the browser; empty: next to the pairs. */
  readonly labelsFile: string
  /** Instructions for the file of labels from whoever wired the stage; empty: pass it as the input `labels`. */
  readonly labelsHint: string
  readonly read: (path: string) => Promise<string>
  readonly write: (path: string, text: string) => Promise<void>
}

const ratings = ["significantly better", "better", "slightly better", "negligibly better or unsure"]

const exampleOf = (kind: Kind, id = "<id>"): string =>
  JSON.stringify({ id, choice: "A", rating: 1, ...(kind === "safety" ? { safeA: true, safeB: false } : {}) })

/** Describes the format of a file of labels, using an unlabelled pair as the example. */
const howTo = (kind: Kind, id: string): string =>
  `one JSON object per line, for example ${exampleOf(kind, id)}: id is the pair's id in that file, choice "A" or "B" is the better response, rating is how much better (${ratings.map((name, i) => `${i} ${name}`).join(", ")})${kind === "safety" ? ", safeA and safeB say whether each response is safe" : ""}; other fields are ignored`

/** A pair's id in the files: its id and a digest of its content, so that a label applies only to these two responses. */
export const labelId = ({ id, prompt, responseA, responseB }: ResponsePair): string =>
  `${id}-${createHash("sha256")
    .update(JSON.stringify([prompt, responseA, responseB]))
    .digest("hex")
    .slice(0, 12)}`

/** Parses one line of labels. Throws AnnotationError with the line and the field. */
const parseLabel = (line: string, number: number, file: string, kind: Kind): { readonly id: string; readonly verdict: Verdict } => {
  const refuse = (field: string, expected: string, found: unknown): never => {
    throw new AnnotationError({
      message: `Reading labels from ${file}, line ${number}, ${field}: expected ${expected}, found ${found === undefined ? "no such field" : JSON.stringify(found).slice(0, 60)}. Fix the line and run again; a valid line is ${exampleOf(kind)}.`
    })
  }
  let row: Record<string, unknown>
  try {
    row = JSON.parse(line) as Record<string, unknown>
  } catch {
    return refuse("entire line", "a JSON object", line)
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) return refuse("entire line", "a JSON object", row)
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

/** A hint that labels can be made in the browser instead of in JSON. */
const inThePage = ({ labelsFile }: FileOptions): string =>
  ` Or label them in the browser with caravan ui --allow-control${labelsFile === "" ? "" : ` (labels are written to ${labelsFile})`}.`

const some = (ids: ReadonlyArray<string>): string => `${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ` and ${ids.length - 5} more` : ""}`

/**
 * The labels of a file by `labelId`. Throws AnnotationError for an invalid line, an id that belongs to no pair or to a pair with other responses, and a
 * duplicate id.
 */
const parseLabels = (text: string, file: string, pairs: ReadonlyArray<ResponsePair>, kind: Kind): ReadonlyMap<string, Verdict> => {
  const labels = new Map<string, Verdict>()
  const ids = new Set(pairs.map(labelId))
  const prompts = new Set(pairs.map(({ id }) => id))
  // Some editors start a file with a byte order mark.
  const lines = text.replace(/^\uFEFF/, "").split("\n")
  lines.forEach((line, i) => {
    if (line.trim() === "") return
    const { id, verdict } = parseLabel(line, i + 1, file, kind)
    const trouble = labels.has(id)
      ? "is labelled twice"
      : ids.has(id)
        ? undefined
        : prompts.has(id.slice(0, id.lastIndexOf("-")))
          ? "is a pair whose responses have changed since (another seed, model or setting generated new ones), so the label does not apply to them"
          : "is not a pair of this batch"
    if (trouble !== undefined)
      throw new AnnotationError({
        message: `Reading labels from ${file}, line ${i + 1}: ${JSON.stringify(id)} ${trouble}. Remove the line and run again.`
      })
    labels.set(id, verdict)
  })
  return labels
}

const lineOf = (pair: ResponsePair): string => {
  const { prompt, safety, category, responseA, responseB } = pair
  return JSON.stringify({ id: labelId(pair), prompt, safety, category, responseA, responseB })
}

/** Writes the missing pairs, unless the file exists and contains anything other than pairs of this batch as they were written. */
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
      message: `Writing ${missing.length} pairs to label to ${pairsFile}: expected no such file, or a file with only pairs of this batch, found line ${other + 1}: ${lines[other]!.slice(0, 60)}. The file was not overwritten because it may contain labels. If it does, ${labels === undefined ? "move it to the path for labels" : `add its labelled lines to ${labels} and move it away`}; otherwise move it away. Then run again.`
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
              message: `${missing.length} pairs have no labels yet, and no file is set to write them to: set pairsFile to a path and run again.`
            })
          if (labels !== undefined && resolve(labels) === resolve(pairsFile))
            throw new AnnotationError({
              message: `Waiting for labels: ${labels} has ${found.size} of ${pairs.length}. Missing: ${names}; they cannot be written to ${pairsFile}, which is the file of labels. Use separate paths for the labels and for pairsFile, and run again.`
            })
          await writePairs(options, missing, pairs)
          throw new AnnotationError({
            message:
              labels === undefined
                ? `Waiting for labels: ${missing.length} pairs were written to ${pairsFile}. Label each pair in a file of labels, ${how}. Then ${labelsHint === "" ? "pass that file as the stage's input `labels`, and run again" : labelsHint}: earlier results are kept.${inThePage(options)}`
                : `Waiting for labels: ${labels} has ${found.size} of ${pairs.length}. Missing: ${names}; they were written to ${pairsFile}. Add a line for each to ${labels}, ${how}. Then run again: earlier results are kept.${inThePage(options)}`
          })
        },
        catch: (cause) =>
          cause instanceof AnnotationError
            ? cause
            : new AnnotationError({
                message: `Labelling with a file: ${messageOf(cause)}. Check the paths of labels and pairsFile, and that their folders exist.`
              })
      })
  })
