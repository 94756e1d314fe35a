/** The file of a report: `report.json`, with sorted keys, so that equal reports are equal bytes. */
import { readFile, writeFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ArtifactError, type ReportType } from "./artifact.ts"

export const fileName = "report.json"

const sortKeys = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value

export const writeContent = (directory: string, type: ReportType<any>, content: unknown): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    const encoded = yield* Schema.encodeUnknownEffect(type.content as Schema.Codec<any, any>)(content).pipe(
      Effect.mapError((error) => ArtifactError.of({ doing: `Writing a ${type.name}`, expected: "its schema", found: error.message, hint: "The stage that made it is at fault." }))
    )
    yield* Effect.promise(() => writeFile(`${directory}/${fileName}`, `${JSON.stringify(encoded, sortKeys, 2)}\n`))
  })

export const readContent = <Content>(directory: string, type: ReportType<Content>): Effect.Effect<Content, ArtifactError> =>
  Effect.gen(function* () {
    const path = `${directory}/${fileName}`
    const fail = (expected: string, found: string) => ArtifactError.of({ doing: `Reading the report ${path}`, expected, found, hint: "Make the report again." })
    const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => fail(`a file ${fileName}`, "none") })
    const json = yield* Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => fail("JSON", cause instanceof Error ? cause.message : String(cause)) })
    return yield* Schema.decodeUnknownEffect(type.content as Schema.Codec<Content, any>, { errors: "all", onExcessProperty: "error" })(json).pipe(
      Effect.mapError((error) => fail(`the schema of ${type.name}`, error.message))
    )
  })

export const validateReport = (directory: string, type: ReportType<any>): Effect.Effect<void, ArtifactError> => Effect.asVoid(readContent(directory, type))
