/** Report types and their file `report.json`, written with sorted keys so that equal reports have equal bytes. */
import { readFile, writeFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ArtifactError, type ReportType } from "./artifact.ts"
import { messageOf } from "./explained-error.ts"
import { schemaIssues } from "./schema-issues.ts"

const fileName = "report.json"

/** Finds numbers that JSON cannot represent: NaN and infinity would be read back as null. */
const findUnrepresentable = (value: unknown, path: string): string | undefined => {
  if (typeof value === "number") return Number.isFinite(value) ? undefined : `${path} is ${value}`
  if (typeof value !== "object" || value === null) return undefined
  for (const [key, inner] of Object.entries(value)) {
    const found = findUnrepresentable(inner, `${path}.${key}`)
    if (found !== undefined) return found
  }
  return undefined
}

const sortKeys = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

/** The text of a JSON file, with sorted keys. */
export const sortedJson = (value: unknown): string => `${JSON.stringify(value, sortKeys, 2)}\n`

export const writeContent = (directory: string, type: ReportType<any>, content: unknown): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    const fail = (expected: string, found: string) =>
      ArtifactError.of({ doing: `Writing a ${type.name}`, expected, found, hint: "This is a bug in the stage that made it." })
    const encoded: unknown = yield* Schema.encodeUnknownEffect(type.content)(content).pipe(
      Effect.mapError((error) => fail("content that matches its schema", error.message))
    )
    const unsayable = findUnrepresentable(encoded, "report")
    if (unsayable !== undefined) return yield* fail("finite numbers", unsayable)
    yield* Effect.promise(() => writeFile(`${directory}/${fileName}`, sortedJson(encoded)))
  })

export const readContent = <Content>(directory: string, type: ReportType<Content>): Effect.Effect<Content, ArtifactError> =>
  Effect.gen(function* () {
    const path = `${directory}/${fileName}`
    const fail = (expected: string, found: string) =>
      ArtifactError.of({ doing: `Reading the report ${path}`, expected, found, hint: "Create the report again." })
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => fail(`a file ${fileName}`, (cause as NodeJS.ErrnoException).code === "ENOENT" ? "none" : String(cause))
    })
    const json = yield* Effect.try({
      try: () => JSON.parse(text) as unknown,
      catch: (cause) => fail("JSON", messageOf(cause))
    })
    return yield* Schema.decodeUnknownEffect(type.content, { errors: "all", onExcessProperty: "error" })(json).pipe(
      Effect.mapError((error) => fail(`content that matches the schema of ${type.name}`, schemaIssues(error.message)))
    )
  })

/** A report type: JSON of one schema, stored as `report.json`. */
export const report = <Content>(content: Schema.Codec<Content, any>, name: string): ReportType<Content> => {
  const full = `report:${name}`
  const type: ReportType<Content> = {
    kind: "report",
    name: full,
    accepts: (other) => other === full,
    content,
    validate: (directory) => Effect.asVoid(readContent(directory, type))
  }
  return type
}
