/** Loads a pipeline file; defines the flags shared by all commands on pipelines. */
import { readdirSync, statSync } from "node:fs"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { placeOf } from "../runtime/errors.ts"
import { type AnyPipeline, isPipeline } from "../runtime/define/pipeline.ts"
import type { RunOptions } from "../runtime/run/options.ts"
import type { Sharding } from "../runtime/run/ranks.ts"
import { type ConfigSchema, describeConfig } from "../schemas/hyper.ts"
import { type Flags, type Given, UsageError, wholeNumber } from "./command.ts"

export const pipelineFlags: Flags = {
  set: { value: "name=value", help: "set a pipeline parameter, or a node's config field as <node>.<field>=value", repeatable: true },
  seed: { value: "n", help: "random seed (default: 0)" },
  device: { value: "cpu|cuda", help: "device for tensor computation (default: cpu)" },
  ranks: {
    value: "n",
    help: "number of processes that a training stage uses: one GPU each with --device cuda, or on the CPU for testing; part of the cache key (default: 1)"
  },
  sharding: {
    value: "none|optimizer|weights",
    help: "with --ranks: what is sharded across ranks; everything else is replicated. weights needs the least memory (default: weights)"
  },
  threads: { value: "n", help: "torch threads, part of the cache key (default: 1; two threads on one physical core halve the speed)" }
}

export const loadPipeline = async (path: string): Promise<AnyPipeline> => {
  const file = resolve(path)
  const fail = (what: string) => new UsageError(`Loading the pipeline ${path}: ${what}`)
  const found = statSync(file, { throwIfNoEntry: false })
  if (found === undefined) throw fail("no such file. Give the path of a pipeline file, for example pipelines/rlhf.ts.")
  if (found.isDirectory()) {
    const files = readdirSync(file).filter((name) => /\.[mc]?[tj]s$/.test(name))
    const some = files.slice(0, 8).map((name) => join(path, name))
    throw fail(
      `it is a folder. Give the path of a pipeline file${some.length === 0 ? ", for example pipelines/rlhf.ts" : `: ${some.join(", ")}${files.length > some.length ? ", ..." : ""}`}.`
    )
  }
  if (!found.isFile()) throw fail("it is not a regular file. Give the path of a pipeline file.")
  let module: { readonly default?: unknown }
  try {
    module = (await import(pathToFileURL(file).href)) as { readonly default?: unknown }
  } catch (cause) {
    // Anything can be thrown.
    const error: Error & { code?: string } = cause instanceof Error ? cause : new Error(String(cause))
    // A syntax error's stack starts with the location: file:line, the source line, a caret.
    const place =
      error.name === "SyntaxError" || error.code === "ERR_INVALID_TYPESCRIPT_SYNTAX"
        ? `\n${(error.stack ?? "").split("\n").slice(0, 3).join("\n")}`
        : ""
    // Node's message already names both files; the first stack frame would be the importing command.
    const where = place === "" && error.code !== "ERR_MODULE_NOT_FOUND" ? placeOf(cause) : ""
    // Node loads .ts files as CommonJS unless the nearest package.json says otherwise.
    const hint = /statement outside a module|Unexpected token 'export'/.test(error.message)
      ? 'Add "type": "module" to package.json (npm pkg set type=module), then run again.'
      : error.code === "ERR_UNKNOWN_FILE_EXTENSION"
        ? "Give the path of a TypeScript or JavaScript file."
        : "Fix the file and run again."
    throw fail(`${error.message.replace(/\.$/, "")}${where}.${place}\n${hint}`)
  }
  if (module.default === undefined)
    throw fail(`it has no default export. End it with: export default Pipeline.make("name", { params }, (params) => ({ ... })).`)
  if (!isPipeline(module.default)) throw fail(`its default export is not a pipeline. Export the result of Pipeline.make(...).`)
  return module.default
}

/** The parameters of a pipeline, shown by --help when a pipeline file is given. */
export const describeParameters = async ([path]: ReadonlyArray<string>): Promise<string> => {
  if (path === undefined) return ""
  const { params, name, description } = await loadPipeline(path)
  const fields = describeConfig(params as ConfigSchema).map((field) => [field.name, field] as const)
  const width = Math.max(0, ...fields.map(([word]) => word.length))
  return [
    `Parameters of ${name}${description === "" ? "" : ` (${description})`}, set with --set name=value:`,
    ...fields.map(([word, { description: text = "", required, default: value }]) => {
      const preset = required ? " (required)" : value === undefined || value === "" ? "" : ` (default: ${JSON.stringify(value)})`
      return `  ${word.padEnd(width)}  ${text}${preset}`
    })
  ].join("\n")
}

/** The nodes that --only, --from and --until name. */
export const selectionOf = (given: Given): Pick<RunOptions, "only" | "from" | "until"> =>
  Object.fromEntries(
    (["only", "from", "until"] as const).flatMap((name) => (given.flag(name) === undefined ? [] : [[name, given.flag(name)!]]))
  )

const isSharding = (text: string): text is Sharding => ["none", "optimizer", "weights"].includes(text)

/** Run options from the shared flags. */
export const pipelineOptions = (given: Given): RunOptions => {
  const settings: Array<[name: string, text: string]> = []
  for (const text of given.flags("set")) {
    const at = text.indexOf("=")
    if (at < 1) throw new UsageError(`--set must be name=value, got "${text}".`)
    settings.push([text.slice(0, at), text.slice(at + 1)])
  }
  const device = given.flag("device") ?? "cpu"
  if (device !== "cpu" && device !== "cuda") throw new UsageError(`--device must be cpu or cuda, got "${device}".`)
  const sharding = given.flag("sharding")
  const ranks = wholeNumber(given, "ranks", 1) ?? 1
  if (sharding !== undefined && !isSharding(sharding))
    throw new UsageError(`--sharding must be none, optimizer or weights, got "${sharding}".`)
  if (sharding !== undefined && ranks === 1)
    throw new UsageError(`--sharding ${sharding} has no effect on one rank: add --ranks, or remove --sharding.`)
  return {
    ...(ranks === 1 ? {} : { ranks, ...(sharding === undefined ? {} : { sharding }) }),
    settings: Object.fromEntries(settings),
    seed: wholeNumber(given, "seed", 0) ?? 0,
    device,
    threads: wholeNumber(given, "threads", 1) ?? 1
  }
}
