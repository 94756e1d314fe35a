/** `caravan describe`: the parameters, inputs and outputs of a pipeline or a stage. */
import { existsSync } from "node:fs"
import { relative, resolve } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { buildGraph } from "../../runtime/define/graph.ts"
import { type AnyPipeline, isPipeline } from "../../runtime/define/pipeline.ts"
import { type Port, portOf, type StageInfo } from "../../runtime/define/stage-info.ts"
import { messageOf } from "../../runtime/errors.ts"
import type { ArtifactType, DatasetType } from "../../schemas/artifact.ts"
import { columnsOf, describeKind } from "../../schemas/arrow.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type ConfigSchema, describeConfig, type FieldDescription } from "../../schemas/hyper.ts"
import { own } from "../../schemas/own.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print } from "../open-store.ts"
import { table } from "../display/units.ts"

export const isStage = (value: unknown): value is { readonly stage: StageInfo } => typeof value === "function" && "stage" in value

/** "integer, 1 to 10, default 4" */
const valuesOf = ({ choices, default: preset, max, min, namesSecret, neutral, required, type }: FieldDescription): string => {
  const range =
    min === undefined && max === undefined
      ? []
      : [max === undefined ? `from ${min}` : min === undefined ? `up to ${max}` : `${min} to ${max}`]
  return [
    ...(choices !== undefined ? [choices.map((word) => (word === "" ? '""' : word)).join(" | ")] : type === undefined ? [] : [type]),
    ...range,
    required === true ? "required" : preset === undefined ? "" : `default ${JSON.stringify(preset)}`,
    namesSecret === true ? "name of a secret" : "",
    neutral === undefined ? "" : "not in the cache key"
  ]
    .filter((word) => word !== "")
    .join(", ")
}

/** One line per field, with its description below. */
const fieldLines = (fields: ReadonlyArray<FieldDescription>): ReadonlyArray<string> =>
  table(
    fields.map((field) => [field.name, valuesOf(field)]),
    "  "
  ).flatMap((line, i) => {
    const { description = "" } = fields[i]!
    return description === "" ? [line] : [line, `      ${description}`]
  })

/** The columns of a dataset's rows; null for other artifacts. */
const columns = (type: ArtifactType<any>): string | null => {
  const { row } = type as Partial<DatasetType<unknown>>
  return row === undefined ? null : describeKind(columnsOf(row))
}
const artifact = (type: ArtifactType<any>) => ({ type: type.name, columns: columns(type) })

const portDocument = (port: Port) => {
  const { arity, type } = portOf(port)
  return { arity, ...artifact(type) }
}
const arities = { one: "", many: "any number of ", optional: "optional: " } as const
const withColumns = ({ columns: rows, type }: ReturnType<typeof artifact>): string => (rows === null ? type : `${type}  ${rows}`)

export const stageDocument = (stage: StageInfo) => ({
  stage: stage.name,
  description: stage.description,
  module: stage.module.startsWith("file:") ? relative(process.cwd(), fileURLToPath(stage.module)) : stage.module,
  tensors: stage.resources.tensors === true,
  seeded: stage.seeded,
  inputs: Object.fromEntries(Object.entries(stage.inputs).map(([name, port]) => [name, portDocument(port)])),
  output: artifact(stage.output),
  fields: describeConfig(stage.config)
})

const stageLines = (of: ReturnType<typeof stageDocument>): ReadonlyArray<string> => [
  `Stage ${of.stage}${of.description === "" ? "" : `: ${of.description}`}`,
  `${of.tensors ? "Computes with tensors, in a separate process" : "Moves data"}; ${of.seeded ? "its result depends on the seed" : "needs no seed"}. ${of.module}`,
  "Inputs:",
  ...table(
    Object.entries(of.inputs).map(([name, input]) => [name, `${arities[input.arity]}${withColumns(input)}`]),
    "  "
  ),
  `Output: ${withColumns(of.output)}`,
  of.fields.length === 0 ? "It has no fields." : "Fields, set with --set <node>.<field>=value:",
  ...fieldLines(of.fields)
]

const pipelineDocument = async (pipeline: AnyPipeline) => {
  const graph = await Effect.runPromise(
    Effect.match(buildGraph(pipeline, {}, { seed: 0 }), { onSuccess: (found) => found, onFailure: (error) => error.message })
  )
  const built = typeof graph === "string" ? undefined : graph
  const stages = [...(built?.nodes.values() ?? [])].flatMap((node) => (node.kind === "stage" ? [node.stage.name] : []))
  return {
    pipeline: pipeline.name,
    description: pipeline.description,
    parameters: describeConfig(pipeline.params as ConfigSchema),
    outputs:
      built === undefined
        ? null
        : Object.fromEntries(
            Object.entries(built.outputs).map(([name, node]) => [name, { node, ...artifact(built.nodes.get(node)!.type) }])
          ),
    stages:
      built === undefined
        ? null
        : Object.fromEntries([...new Set(stages)].map((name) => [name, stages.filter((each) => each === name).length])),
    /** Why the outputs can't be listed with the default parameters. */
    open: typeof graph === "string" ? graph : null
  }
}

const pipelineLines = (of: Awaited<ReturnType<typeof pipelineDocument>>): ReadonlyArray<string> => [
  `Pipeline ${of.pipeline}${of.description === "" ? "" : `: ${of.description}`}`,
  of.parameters.length === 0 ? "It has no parameters." : "Parameters, set with --set name=value:",
  ...fieldLines(of.parameters),
  ...(of.outputs === null
    ? [`Its outputs can't be listed without parameters: ${of.open}`]
    : [
        "Outputs, with default parameters:",
        ...table(
          Object.entries(of.outputs).map(([name, { node, type }]) => [name, type, node === name ? "" : `node ${node}`]),
          "  "
        ),
        `Stages: ${Object.entries(of.stages ?? {})
          .map(([name, n]) => (n === 1 ? name : `${name} (${n} nodes)`))
          .join(", ")}`
      ])
]

const loaded = async (path: string, text: string): Promise<Readonly<Record<string, unknown>>> => {
  try {
    return (await import(pathToFileURL(path).href)) as Readonly<Record<string, unknown>>
  } catch (cause) {
    throw new UsageError(`Describing ${text}: loading ${path}: ${messageOf(cause)}`)
  }
}

/** Resolves the argument: a file's pipeline, "file.ts#export", or a stage of the recipe by its name or its export's name. */
const find = async (text: string): Promise<AnyPipeline | StageInfo> => {
  const hash = text.lastIndexOf("#")
  const [file, name] = hash > 0 ? [text.slice(0, hash), text.slice(hash + 1)] : [text, "default"]
  const path = resolve(file)
  const fail = (what: string) => new UsageError(`Describing ${text}: ${what}`)
  if (/\.[mc]?[jt]s$/.test(file)) {
    if (!existsSync(path)) throw fail(`${path} does not exist. Check the path.`)
    const module = await loaded(path, text)
    const value = own(module, name)
    if (isPipeline(value)) return value
    if (isStage(value)) return value.stage
    const there = Object.entries(module).flatMap(([each, found]) => (isPipeline(found) || isStage(found) ? [each] : []))
    const known = there.filter((each) => each !== "default").map((each) => `${file}#${each}`)
    throw fail(
      `${name === "default" ? "it has no default export that is a pipeline or a stage" : `its export "${name}" is neither a pipeline nor a stage`}.${known.length === 0 ? "" : ` It exports: ${known.join(", ")}.`}`
    )
  }
  const exported = Object.entries(await import("../../index.ts")).flatMap(([each, value]) =>
    isStage(value) ? [[each, value.stage] as const] : []
  )
  const found = exported.find(([each, stage]) => each === text || stage.name === text)
  if (found !== undefined) return found[1]
  throw fail(
    `expected a pipeline file, the name of a stage of the recipe, or file.ts#export.${didYouMean(text, exported.map(([, stage]) => stage.name).sort())}`
  )
}

export const command: Command = {
  name: "describe",
  summary:
    "Describes a pipeline (parameters, outputs, stages) or a stage (inputs, output, fields): each value's type, bounds, default, meaning and unit. Runs nothing.",
  positionals: ["<pipeline.ts|stage|file.ts#export>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan describe pipelines/demo.ts", "caravan describe sft", "caravan describe stages/world/data.ts#worldTexts --json"],
  run: async (given) => {
    const found = await find(given.positionals[0]!)
    if (isPipeline(found)) {
      const document = await pipelineDocument(found)
      print(given.has("json"), document, pipelineLines(document))
    } else {
      const document = stageDocument(found)
      print(given.has("json"), document, stageLines(document))
    }
    return exitCodes.ok
  }
}
