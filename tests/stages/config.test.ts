/** Every hyperparameter that a stage declares is read: a field without effect would change cache keys and mislead users. */
import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { AnyStage } from "../../runtime/define/stage.ts"

const folder = new URL("../../stages/", import.meta.url)

/**
 * Fields that a source never reads: as `config.field`, by destructuring `config` or `settings`, or, if `config` is passed to a function with another
 * parameter name, as `options.field`, or by a function of an imported file that destructures its parameter, or its `settings`, or reads `settings.field`.
 */
const unread = (fields: ReadonlyArray<string>, source: string, imported = ""): Array<string> => {
  const apart = [...source.matchAll(/\{([^{}]*)\} = (?:config|settings)\b/g)].flatMap(([, names]) =>
    names!.split(",").map((name) => name.split(":")[0]!.trim())
  )
  const handedOn = /\(config\)|, config\)|, config,|\{ \.\.\.config,/.test(source)
  const taken = handedOn
    ? [...imported.matchAll(/\{([^{}()]*)\}(?:: \w| = settings\b)|\bsettings\.(\w+)/g)].flatMap(([, names, field]) =>
        (names ?? field!).split(",").map((name) => name.trim())
      )
    : []
  const reads = (name: string, field: string) => new RegExp(`\\b${name}\\.${field}\\b`).test(source)
  return fields.filter(
    (field) => ![...apart, ...taken].includes(field) && !reads("config", field) && !(handedOn && reads("options", field))
  )
}

const isStage = (value: unknown): value is AnyStage => typeof value === "function" && "stage" in value

/** Cost estimates, which read fields too: `export const sftCost = costOf(...)`. */
const estimates = /^export const \w+ = costOf\((?:.*\)|[^]*?^\}\))$/gm

/**
 * The sources in which a stage's fields may be read: only the stage if its config is defined within it, otherwise its complete file except estimates; if a function
 * of another file makes its definition, that file; if the config has a separate file, its folder, and the files imported from the folder whose fields it reuses.
 */
const sourceOf = (file: string, stage: string): string => {
  const source = readFileSync(new URL(file, folder), "utf8").replace(estimates, "")
  const room = roomOf(file)
  if (room.length > 1) return [...room, ...lentTo(file)].map((name) => readFileSync(new URL(name, folder), "utf8")).join("\n")
  const start = source.search(new RegExp(`Stage\\.make\\(\\s*"${stage}"`))
  const end = source.indexOf("Stage.make(", start + 1)
  const own = source.slice(start, end === -1 ? undefined : end)
  const maker = /^Stage\.make\(\s*"[^"]+",\s*(\w+)\(/.exec(own)?.[1]
  const from = maker === undefined ? undefined : new RegExp(`import \\{[^}]*\\b${maker}\\b[^}]*\\} from "([^"]+)"`).exec(source)?.[1]
  if (from !== undefined) return readFileSync(new URL(from, new URL(file, folder)), "utf8")
  return start >= 0 && own.includes("config: Schema.Struct(") ? own : source
}

/** A stage's file, or if its config has a separate file, all files of the folder except that and the estimates. */
const roomOf = (file: string): ReadonlyArray<string> =>
  readFileSync(new URL(file, folder), "utf8").includes('from "./config.ts"')
    ? files.filter((name) => name.startsWith(`${file.split("/")[0]!}/`) && !/\/(config|cost)\.ts$/.test(name))
    : [file]

/** The files that a folder imports from the folder whose config fields it reuses. */
const lentTo = (file: string): ReadonlyArray<string> => {
  const config = new URL("config.ts", new URL(file, folder))
  const from = /from "\.\.\/(\w+)\/config\.ts"/.exec(readFileSync(config, "utf8"))?.[1]
  return from === undefined
    ? []
    : importsOf(file).flatMap(({ href }) => {
        const name = href.slice(folder.href.length)
        return name.startsWith(`${from}/`) && !/\/(config|cost)\.ts$/.test(name) ? [name] : []
      })
}

/** The files of stages that a stage's file, or its folder, imports. */
const importedBy = (file: string): string =>
  importsOf(file)
    .map((url) => readFileSync(url, "utf8"))
    .join("\n")
const importsOf = (file: string): ReadonlyArray<URL> =>
  roomOf(file)
    .flatMap((from) =>
      [...readFileSync(new URL(from, folder), "utf8").matchAll(/from "(\.[^"]+)"/g)].map(
        ([, path]) => new URL(path!, new URL(from, folder))
      )
    )
    .filter(({ href }) => href.startsWith(folder.href))

const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
const stages = await Promise.all(
  files.map(async (file) => {
    const exported: Record<string, unknown> = await import(new URL(file, folder).href)
    return Object.values(exported)
      .filter(isStage)
      .map(({ stage }) => ({ file, name: stage.name, fields: Object.keys(stage.config.fields as object) }))
  })
)

describe("hyperparameters", () => {
  it.each(stages.flat())("of $name are all read", ({ file, name, fields }) => {
    expect(unread(fields, sourceOf(file, name), importedBy(file))).toEqual([])
  })
  it("of every folder of stages are checked", () => {
    const rooms = new Set(files.map((file) => file.split("/")[0]!))
    expect([...rooms].filter((room) => !stages.flat().some(({ file }) => file.startsWith(`${room}/`)))).toEqual(["common"])
    expect(stages.flat().flatMap(({ fields }) => fields).length).toBeGreaterThan(50)
  })
  it("that nobody reads are detected", () => {
    const source = "({ config }) => { const { a, b: other } = config; use(config.c, fieldd, config.dd); f(config); options.e }"
    expect(unread(["a", "b", "c", "d", "e", "f"], source)).toEqual(["d", "f"])
    expect(unread(["e"], "options.e")).toEqual(["e"])
    const imported = "export const g = ({ a, b }: Options) => a + b"
    expect(unread(["a", "b", "c"], "g(rows, config, 1)", imported)).toEqual(["c"])
    expect(unread(["a", "b", "c"], "g({ ...config, rows })", imported)).toEqual(["c"])
    const settings = "export const g = (settings: Settings) => { const { a } = settings; return a + settings.b }"
    expect(unread(["a", "b", "c"], "g({ ...config, rows })", settings)).toEqual(["c"])
    expect(unread(["a"], "g(rows)", imported)).toEqual(["a"])
  })
})
