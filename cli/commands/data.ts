/** `caravan data inspect`: shows the content of the user's own data files. */
import * as Effect from "effect/Effect"
import { invalidFile, inspect, type Inspection, invalidLabel, type Lengths } from "../../data/inspect.ts"
import { shapes } from "../../data/shapes/shapes.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { Hub } from "../../runtime/hub/hub.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { isHubName } from "../../schemas/hub-name.ts"
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { messagesWithoutTags, withoutTags } from "../../stages/data/chat-tags.ts"
import { parsePrompt } from "../../stages/data/import-prompts.ts"
import { artifactPath } from "../artifact-path.ts"
import { hubPath } from "../hub-path.ts"
import { type Command, exitCodes, type Given, UsageError, wholeNumber } from "../command.ts"
import { count, table } from "../display/units.ts"
import { write, writeJson } from "../output.ts"

/** Checks that an import makes on rows beyond their shape. */
const checks = () => {
  const ids = new Set<string>()
  return {
    preferences: ({ chosen, prompt, rejected, ...row }: Preference): Preference => ({
      ...row,
      prompt: messagesWithoutTags(prompt, "prompt", "refuse"),
      chosen: withoutTags(chosen, "chosen", "refuse"),
      rejected: withoutTags(rejected, "rejected", "refuse")
    }),
    demonstrations: ({ messages, ...row }: Demonstration): Demonstration => ({
      ...row,
      messages: messagesWithoutTags(messages, "messages", "refuse")
    }),
    prompts: (value: unknown) => parsePrompt(value, false, ids),
    texts: (row: { readonly text: string }) => row
  }
}

/** "prompt=question" -> { prompt: "question" }. */
const mapOf = (given: Given): Readonly<Record<string, string>> => {
  const columns = new Set(shapes.flatMap((shape) => shape.columns))
  return Object.fromEntries(
    given.flags("map").map((text) => {
      const [, name, path] = /^([^=]+)=(.+)$/.exec(text) ?? []
      if (name === undefined || path === undefined) throw new UsageError(`--map must be <our column>=<their column>, got "${text}".`)
      if (!columns.has(name)) throw new UsageError(`--map ${text}: no shape has a column "${name}".${didYouMean(name, [...columns])}`)
      return [name, path]
    })
  )
}

const shapeOf = (given: Given): string => {
  const name = given.flag("shape") ?? "auto"
  const names = shapes.map((shape) => shape.name)
  if (name !== "auto" && !names.includes(name))
    throw new UsageError(`--shape ${name}: unknown shape.${didYouMean(name, names, 0)} Known shapes: ${names.join(", ")}.`)
  return name
}

const documentsOf = (given: Given): "line" | "paragraph" | "file" => {
  const documents = given.flag("documents") ?? "line"
  if (documents === "line" || documents === "paragraph" || documents === "file") return documents
  throw new UsageError(`--documents must be line, paragraph or file, got "${documents}".`)
}

const importers = {
  preferences: "importPreferences",
  demonstrations: "importDemonstrations",
  prompts: "importPrompts",
  texts: "importTexts"
} as const

const round = (value: number): string => `${Number(value.toPrecision(4))}`
const lengthLine = (name: string, lengths: Lengths | null): ReadonlyArray<ReadonlyArray<string>> =>
  lengths === null ? [] : [[name, round(lengths.mean), round(lengths.median), round(lengths.most)]]

/** The inspection as a page of text. */
const page = (found: Inspection): ReadonlyArray<string> => {
  const { columns, files, form, given, gives, leftOut, problemCounts, problems, rows, shape } = found
  const packed = files.filter(({ compression }) => compression !== "none").length
  const noColumns = columns.length === 0
  const shapeLine =
    shape === null
      ? `shape: unknown; ${noColumns ? "no row could be read" : "name one with --shape, or map columns with --map prompt=question"}`
      : `shape: ${shape} (${form})${gives.length === 0 ? "; no stage imports it" : `; ${gives.map((kind) => importers[kind]).join(" or ")}`}`
  const counts = Object.entries(problemCounts)
  const lines = [
    `${count(files.length, "file")}, ${found.format ?? "none of which can be read"}${packed > 0 ? `, ${packed} compressed` : ""}; ${count(rows, "row")}`,
    ...(new Set(files.map((file) => file.shape)).size > 1
      ? table(
          files.map((file) => [file.file, file.shape ?? "unknown shape", count(file.rows, "row")]),
          "  "
        )
      : [shapeLine]),
    ...(noColumns
      ? []
      : [
          "columns:",
          ...table(
            columns.map(({ missing, name, type }) => [name, type, missing === 0 ? "" : `missing in ${missing}`]),
            "  "
          )
        ])
  ]
  if (given !== null) {
    lines.push(
      `${given.kind}: ${given.rows}; ${given.duplicates} duplicates${given.kind === "texts" || given.kind === "prompts" ? "" : `, ${given.repeatedPrompts} with a repeated prompt`}`,
      ...(given.rows === 0
        ? []
        : table(
            [
              ["", "mean", "median", "max"],
              ...lengthLine("turns", given.turns),
              ...lengthLine(`${given.unit} of all`, given.example),
              ...lengthLine(`${given.unit} of the prompt`, given.prompt),
              ...lengthLine(`${given.unit} of the answer`, given.response)
            ],
            "  "
          ))
    )
    const shares = (of: Readonly<Record<string, number>>) =>
      Object.entries(of)
        .map(([name, n]) => `${name}: ${n}`)
        .join("; ")
    if (given.ratings !== null && given.rows > 0)
      lines.push(`ratings: ${shares(given.ratings)}`, `labels (chosen, rejected): ${shares(given.safety ?? {})}`)
  }
  for (const [reason, n] of Object.entries(leftOut)) lines.push(`left out: ${n} ${reason}`)
  lines.push(
    counts.length === 0 ? "problems: none" : `problems: ${counts.reduce((sum, [, n]) => sum + n, 0)} (of ${count(rows, "row")})`,
    ...counts.sort(([, a], [, b]) => b - a).map(([reason, n]) => `  ${n}: ${reason}`)
  )
  for (const { field, file, line, reason } of problems)
    lines.push(`  ${file}${line === null ? "" : `:${line}`}${field === null || field.startsWith("(") ? "" : `, field ${field}`}: ${reason}`)
  given?.examples.forEach((example, i) =>
    lines.push(
      `example ${i + 1}:`,
      ...JSON.stringify(example, undefined, 2)
        .split("\n")
        .map((line) => `  ${line.length > 300 ? `${line.slice(0, 300)}...` : line}`)
    )
  )
  return lines
}

export const command: Command = {
  name: "data",
  summary:
    "Shows what your own data files contain, as an import would read them: format, shape, columns, rows, problems by file, line and field, lengths, turns, duplicates, examples. Give files, folders, glob patterns or datasets on the Hugging Face Hub (hf:datasets/owner/name@revision:path); they are read as one dataset. The shapes are listed in docs/shapes.md.",
  positionals: ["<inspect>", "<files...>"],
  flags: {
    json: { help: "print one JSON document" },
    shape: { value: "name", help: "read the rows as this shape instead of the detected one" },
    map: {
      value: "ours=theirs",
      help: "read their column as ours: --map prompt=question (dots reach into nested objects)",
      repeatable: true
    },
    documents: { value: "unit", help: "for plain text files: whether one text is a line, a paragraph or the whole file" },
    tokenizer: { value: "model", help: "count tokens of this checkpoint, tokenizer or folder instead of characters" },
    examples: { value: "n", help: "show n examples (default: 2)" },
    problems: { value: "n", help: "show the first n problems (default: 20)" }
  },
  examples: [
    "caravan data inspect pairs.jsonl",
    "caravan data inspect 'data/*.parquet' --tokenizer ./llama --json",
    "caravan data inspect hf:datasets/me/pairs:data/train-*.parquet --tokenizer hf:meta-llama/Llama-3.2-1B",
    "caravan data inspect mine.csv --map prompt=question --map completion=answer"
  ],
  run: async (given) => {
    const [verb, ...paths] = given.positionals
    if (verb !== "inspect") throw new UsageError(`caravan data: expected inspect, got "${verb}".${didYouMean(verb ?? "", ["inspect"])}`)
    const model = given.flag("tokenizer")
    const tokenizer = model === undefined ? undefined : await Effect.runPromise(loadTokenizer(await artifactPath(model, "tokenizer")))
    const hub = new Hub()
    const local: Array<string> = []
    for (const path of paths) local.push(isHubName(path) ? await hubPath(path, "all", hub) : path)
    const found = await inspect(local, {
      shape: shapeOf(given),
      map: mapOf(given),
      documents: documentsOf(given),
      tokens: tokenizer === undefined ? undefined : (text) => tokenizer.encode(text).length,
      check: checks(),
      examples: wholeNumber(given, "examples", 0) ?? 2,
      problems: wholeNumber(given, "problems", 0) ?? 20
    })
    if (given.has("json")) writeJson(found)
    else write(`${page(found).join("\n")}\n`)
    const stops = [invalidFile, invalidLabel].some((kind) => Object.hasOwn(found.problemCounts, kind))
    return found.shape === null || stops ? exitCodes.failed : exitCodes.ok
  }
}
