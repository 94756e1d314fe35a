/** Input files and folders that a run needs and that do not exist: probably wrong paths. */
import { existsSync, readdirSync } from "node:fs"
import { basename, dirname } from "node:path"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { isPattern } from "../../schemas/file-pattern.ts"
import { ancestors, type FileNode, type Graph } from "../define/graph.ts"
import { PipelineError } from "../errors.ts"
import { inputExists } from "./inputs.ts"

/** The missing inputs of the selected nodes (undefined: all) and of everything that they depend on. */
export const missingInputs = (graph: Graph, selected: ReadonlySet<string> | undefined): ReadonlyArray<FileNode> => {
  const needed = selected === undefined ? undefined : ancestors(graph, selected)
  return [...graph.nodes.values()].filter(
    (node): node is FileNode => node.kind === "file" && (needed === undefined || needed.has(node.id)) && !inputExists(node)
  )
}

/** ' Did you mean "pairs.jsonl"?': the closest name in the same folder, or the first folder of the path that does not exist. */
const nearby = (path: string): string => {
  const folder = dirname(path)
  if (existsSync(folder)) {
    try {
      return didYouMean(basename(path), readdirSync(folder), 0)
    } catch {
      // An unreadable folder, or a file.
      return ""
    }
  }
  let missing = folder
  while (!existsSync(dirname(missing))) missing = dirname(missing)
  return ` There is no folder ${missing}.`
}

/** What is wrong with a missing input, and what to do. */
export const describeMissing = ({ path }: FileNode): string =>
  `Reading the input ${path}: ${
    isPattern(path)
      ? "no file matches. Check the pattern (relative patterns start at the current folder)."
      : `no such file or folder.${nearby(path)} Check the path (relative paths start at the current folder).`
  }`

/** Fails for a missing input, before anything runs or is recorded. */
export const requireInputs = (graph: Graph, selected: ReadonlySet<string> | undefined): Effect.Effect<void, PipelineError> => {
  const missing = missingInputs(graph, selected)
  return missing.length === 0 ? Effect.void : Effect.fail(new PipelineError({ message: missing.map(describeMissing).join("\n") }))
}
