/** People as annotators: the pairs are written to a file, the run stops and says what is awaited, and goes on when the labels are there. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { ResponsePair } from "../../schemas/rows.ts"
import { AnnotationError, Annotator, type Kind, type Rating, type Verdict } from "./annotator.ts"

export interface FileOptions {
  /** The file of labels, where it is there yet. */
  readonly labels: string | undefined
  /** Where the pairs to label go. */
  readonly pairsFile: string
  readonly read: (path: string) => Promise<string>
  readonly write: (path: string, text: string) => Promise<void>
}

const ratings = ["significantly better", "better", "slightly better", "negligibly better or unsure"]

const exampleOf = (kind: Kind): string =>
  JSON.stringify({ id: "<id>", choice: "A", rating: 1, ...(kind === "safety" ? { safeA: true, safeB: false } : {}) })

/** One line of labels. Throws an AnnotationError that names the line and the field. */
const parseLabel = (line: string, number: number, file: string, kind: Kind): { readonly id: string; readonly verdict: Verdict } => {
  const refuse = (field: string, expected: string, found: unknown): never => {
    throw new AnnotationError({
      message: `Reading labels from ${file}, line ${number}, ${field}: expected ${expected}, found ${JSON.stringify(found).slice(0, 60)}. Mend the line and run again; a line is like ${exampleOf(kind)}.`
    })
  }
  let row: Record<string, unknown>
  try {
    row = JSON.parse(line) as Record<string, unknown>
  } catch {
    return refuse("the whole", "a JSON object", line)
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) return refuse("the whole", "a JSON object", row)
  const { id, choice, rating, safeA = null, safeB = null } = row
  if (typeof id !== "string") return refuse("id", "the id of a pair", id)
  if (choice !== "A" && choice !== "B") return refuse("choice", '"A" or "B"', choice)
  if (!Number.isInteger(rating) || !((rating as number) >= 0 && (rating as number) <= 3))
    return refuse("rating", `0, 1, 2 or 3 (${ratings.join(", ")})`, rating)
  for (const [field, value] of [
    ["safeA", safeA],
    ["safeB", safeB]
  ] as const)
    if (!(typeof value === "boolean" || (value === null && kind === "helpfulness"))) return refuse(field, "true or false", value)
  return { id, verdict: { choice, rating: rating as Rating, safeA: safeA as boolean | null, safeB: safeB as boolean | null } }
}

const some = (ids: ReadonlyArray<string>): string => `${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ` and ${ids.length - 5} more` : ""}`

/** The labels of a file by pair. Throws an AnnotationError for a line that does not fit, an id that is no pair's, or one that is there twice. */
export const parseLabels = (text: string, file: string, ids: ReadonlySet<string>, kind: Kind): ReadonlyMap<string, Verdict> => {
  const labels = new Map<string, Verdict>()
  text.split("\n").forEach((line, i) => {
    if (line.trim() === "") return
    const { id, verdict } = parseLabel(line, i + 1, file, kind)
    const trouble = labels.has(id) ? "is labelled twice" : ids.has(id) ? undefined : "is no pair of this batch"
    if (trouble !== undefined)
      throw new AnnotationError({
        message: `Reading labels from ${file}, line ${i + 1}: ${JSON.stringify(id)} ${trouble}. Take the line out and run again.`
      })
    labels.set(id, verdict)
  })
  return labels
}

const toLabel = (pairs: ReadonlyArray<ResponsePair>): string =>
  pairs
    .map(
      ({ id, prompt, safety, category, responseA, responseB }) =>
        `${JSON.stringify({ id, prompt, safety, category, responseA, responseB })}\n`
    )
    .join("")

export const fileAnnotator = ({ labels, pairsFile, read, write }: FileOptions): Layer.Layer<Annotator> =>
  Layer.succeed(Annotator, {
    judge: (pairs, kind) =>
      Effect.tryPromise({
        try: async () => {
          const ids = new Set(pairs.map(({ id }) => id))
          const found = labels === undefined ? new Map<string, Verdict>() : parseLabels(await read(labels), labels, ids, kind)
          const missing = pairs.filter(({ id }) => !found.has(id))
          if (missing.length === 0) return pairs.map(({ id }) => found.get(id)!)
          const how = `one JSON object a line, like ${exampleOf(kind)}: which response is better, how much (0 ${ratings[0]} to 3 ${ratings[3]})${kind === "safety" ? ", and whether each is safe" : ""}`
          if (pairsFile === "")
            throw new AnnotationError({
              message: `Labels of ${missing.length} pairs are awaited, but nothing says where to write them: set pairsFile to a path. Then label them (${how}), wire the file to \`labels\`, and run again.`
            })
          await write(pairsFile, toLabel(missing))
          throw new AnnotationError({
            message:
              labels === undefined
                ? `Awaiting labels: ${missing.length} pairs are written to ${pairsFile}. Label them (${how}), give the file to \`labels\`, and run again: everything before is kept.`
                : `Awaiting labels: ${labels} has ${found.size} of ${pairs.length}. Missing: ${some(missing.map(({ id }) => id))}; they are written to ${pairsFile}. Add a line for each (${how}) and run again.`
          })
        },
        catch: (cause) =>
          cause instanceof AnnotationError
            ? cause
            : new AnnotationError({
                message: `Labelling by a file: ${cause instanceof Error ? cause.message : String(cause)}. Check the paths of labels and pairsFile.`
              })
      })
  })
