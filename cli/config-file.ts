/** The config file: `caravan.json` next to the nearest package.json. Its settings apply to every run of the project unless a flag overrides them. */
import { existsSync, readFileSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import * as Exit from "effect/Exit"
import * as Cause from "effect/Cause"
import * as Schema from "effect/Schema"
import { SlurmConfig, unknownProfile } from "../runtime/cluster/config.ts"
import { messageOf } from "../runtime/errors.ts"
import type { SharedPlace } from "../runtime/shared/open.ts"
import { UsageError } from "./command.ts"
import { schemaIssues } from "../schemas/schema-issues.ts"

export const configName = "caravan.json"

const File = Schema.Struct({
  /** The folder of shared results, relative to the config file; or an object with more options. */
  shared: Schema.optionalKey(
    Schema.Union([
      Schema.String,
      Schema.Struct({ folder: Schema.String, readOnly: Schema.optionalKey(Schema.Boolean), seconds: Schema.optionalKey(Schema.Number) })
    ])
  ),
  slurm: Schema.optionalKey(SlurmConfig)
})

export interface Config {
  /** Slurm profiles for jobs. */
  readonly slurm?: SlurmConfig
  /** The file's path. */
  readonly path?: string
  readonly shared?: SharedPlace
}

const decode = Schema.decodeUnknownExit(File, { onExcessProperty: "error", errors: "all" })

/** The config file for a folder: that of the project that contains it. */
const findConfig = (from: string): string | undefined => {
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    const path = join(folder, configName)
    if (existsSync(path)) return path
    if (existsSync(join(folder, "package.json")) || folder === dirname(folder)) return undefined
  }
}

export const readConfig = (from: string): Config => {
  const path = findConfig(from)
  if (path === undefined) return {}
  const fail = (what: string) => new UsageError(`Reading the config file ${path}: ${what}`)
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(path, "utf8"))
  } catch (cause) {
    throw fail(`${messageOf(cause)}. Expected one JSON object, for example { "shared": "/mnt/team/caravan-results" }.`)
  }
  const decoded = decode(parsed)
  if (Exit.isFailure(decoded)) throw fail(`${schemaIssues(messageOf(Cause.squash(decoded.cause)))}. Correct it (docs/how-to/cluster.md).`)
  const { shared, slurm: given } = decoded.value
  const folderOf = (named: string) => resolve(dirname(path), named)
  const slurm = given?.folder === undefined ? given : { ...given, folder: folderOf(given.folder) }
  const named = [slurm?.profile, slurm?.light].find((name) => name !== undefined && unknownProfile(slurm!, name) !== undefined)
  if (named !== undefined) throw fail(`${unknownProfile(slurm!, named)}.`)
  const base = { path, ...(slurm === undefined ? {} : { slurm }) }
  if (shared === undefined) return base
  const { folder, readOnly = false, seconds } = typeof shared === "string" ? { folder: shared } : shared
  if (folder === "") throw fail(`"shared" is empty: give the path of a folder, or remove it.`)
  if (seconds !== undefined && !(seconds > 0)) throw fail(`"shared.seconds" is ${seconds}, expected a number above 0.`)
  return {
    ...base,
    shared: { folder: folderOf(folder), isReadOnly: readOnly, ...(seconds === undefined ? {} : { seconds }) }
  }
}
