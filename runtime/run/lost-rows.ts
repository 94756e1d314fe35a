/** For a stage that got too few rows: the earlier nodes in which the rows were lost, the reasons they counted, and what to do. */
import { dependencies, type Graph, type StageNode } from "../define/graph.ts"
import { skippedText } from "../define/skipped.ts"
import type { NodeResult } from "./events.ts"

/** The tag of the recipe's error for it (stages/common/empty-dataset.ts); your own stages may use it too. */
export const emptyDataset = "EmptyDatasetError"

/** An input with fewer rows than this is followed back to where they were lost. */
const few = 10
/** Maximum number of nodes named. */
const namedNodes = 3

/** What to do about a reason, by the words of skipped rows and of metrics. */
const remedies: ReadonlyArray<readonly [reason: RegExp, remedy: string]> = [
  [/too ?long|longer than|not fit/i, "Raise the sequence length, or use a model with a longer context."],
  [/tag of the chat format/i, "Clean the texts, or import them with chatTags=escape."],
  [
    /undecided|without a word|empty|unfinished|cut off|truncated/i,
    "If a model wrote the answers, it is probably trained too little: train it for more steps."
  ]
]

/** Numbers of rows by reason: from the skipped rows, and the node's metrics. */
const reasonsOf = ({ metrics, skipped }: NodeResult): Array<readonly [reason: string, rows: number]> => [
  ...skipped.flatMap(({ reasons }) => Object.entries(reasons)),
  ...Object.entries(metrics).filter(([name, value]) => name !== "rows" && Number.isInteger(value) && value > 0 && value !== metrics.rows)
]

/** Sentences on where the rows of a node's inputs were lost; "" if no input has few rows. */
export const whereRowsWereLost = (graph: Graph, results: ReadonlyMap<string, NodeResult>, node: StageNode): string => {
  const rowsOf = (id: string) => results.get(id)?.metrics.rows
  const inputsOf = (id: string) => dependencies(graph.nodes.get(id)!).filter((input) => rowsOf(input) !== undefined)
  const lost = new Set<string>()
  const seen = new Set<string>()
  const open = dependencies(node).filter((id) => (rowsOf(id) ?? few) < few)
  for (let next = open.shift(); next !== undefined; next = open.shift()) {
    if (seen.has(next)) continue
    seen.add(next)
    const rows = rowsOf(next)!
    const earlier = inputsOf(next).filter((id) => rowsOf(id)! <= rows)
    if (earlier.length > 0) open.push(...earlier)
    else lost.add(next)
  }
  const found = [...lost].slice(0, namedNodes).map((id) => {
    const result = results.get(id)!
    const rows = rowsOf(id)!
    const before = Math.max(-1, ...inputsOf(id).map((input) => rowsOf(input)!))
    const counted = [
      ...result.skipped.map(skippedText),
      ...reasonsOf({ ...result, skipped: [] }).map(([name, value]) => `${name} ${value}`)
    ]
    return ` "${id}" made ${rows} ${rows === 1 ? "row" : "rows"}${before < 0 ? "" : ` from ${before}`}${counted.length === 0 ? "" : ` (${counted.join("; ")})`}.`
  })
  const [most] = [...lost].flatMap((id) => reasonsOf(results.get(id)!)).sort(([, a], [, b]) => b - a)
  const remedy = most === undefined ? undefined : remedies.find(([reason]) => reason.test(most[0]))?.[1]
  return `${found.join("")}${remedy === undefined ? "" : ` ${remedy}`}`
}
