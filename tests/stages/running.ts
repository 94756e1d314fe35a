/** Runs stages by themselves, on artifacts in a separate folder: no store, no cache. */
import { createHash } from "node:crypto"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll } from "vitest"
import { readRows, readReport, writeDataset } from "../../data/dataset.ts"
import { noCheckpoints } from "../../runtime/define/resume-points.ts"
import type { SkippedRow } from "../../runtime/define/skipped.ts"
import type { AnyStage, Context } from "../../runtime/define/stage.ts"
import { collectSkipped } from "../../runtime/run/skipped-rows.ts"
import { skippedFile } from "../../runtime/store/sidecar.ts"
import type { ArtifactRef, ArtifactType, DatasetType, ReportType, Written } from "../../schemas/artifact.ts"
import { decodeConfig } from "../../schemas/hyper.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-stages-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let made = 0
const folder = (): string => {
  const path = join(root, `${++made}`)
  mkdirSync(path)
  return path
}

const digestOf = (path: string): string => {
  const hash = createHash("sha256")
  const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  for (const file of files.map((entry) => join(entry.parentPath, entry.name)).sort())
    hash.update(file.slice(path.length)).update(readFileSync(file))
  return hash.digest("hex")
}
const refTo = <A>(path: string, type: ArtifactType<A>): ArtifactRef<A> => {
  const digest = digestOf(path)
  return { path, type: type.name, digest, contentDigest: digest }
}

/** An artifact that `write` fills. */
export const artifact = async <A>(
  type: ArtifactType<A>,
  write: (slot: { readonly path: string; readonly type: ArtifactType<A> }) => Effect.Effect<Written<A>, unknown>
): Promise<ArtifactRef<A>> => {
  const path = folder()
  await Effect.runPromise(write({ path, type }))
  return refTo(path, type)
}
export const rowsArtifact = <Row>(type: DatasetType<Row>, rows: ReadonlyArray<Row>) => artifact(type, (slot) => writeDataset(slot, rows))
export const rowsIn = <Row>(ref: ArtifactRef<any>, type: DatasetType<Row>): Promise<ReadonlyArray<Row>> =>
  Effect.runPromise(readRows(ref, type))
export const reportIn = <Content>(ref: ArtifactRef<any>, type: ReportType<Content>): Promise<Content> =>
  Effect.runPromise(readReport(ref, type))

export type Inputs = Readonly<Record<string, ArtifactRef<any> | ReadonlyArray<ArtifactRef<any>>>>
const effectOf = (
  { stage }: AnyStage,
  inputs: Inputs,
  config: Record<string, unknown>,
  seed: number,
  over: Partial<Pick<Context, "checkpoints" | "progress">> = {},
  skippedLimit: number | null = 1
) =>
  Effect.gen(function* () {
    const decoded = yield* decodeConfig(stage.config, config, stage.name)
    const path = folder()
    const collected = collectSkipped(stage.name, `${path}-sidecar`, skippedLimit ?? undefined)
    const { metrics } = yield* stage.run({
      config: decoded,
      inputs,
      output: { path, type: stage.output },
      seed,
      device: "cpu",
      threads: 1,
      progress: () => Effect.void,
      checkpoints: noCheckpoints,
      skipped: collected,
      ...over
    })
    const skipped = yield* collected.finish
    const skippedRows =
      skipped.length === 0
        ? []
        : readFileSync(join(`${path}-sidecar`, skippedFile), "utf8")
            .trimEnd()
            .split("\n")
    yield* stage.output.validate(path)
    return { ...refTo(path, stage.output), metrics, skipped, skippedRows: skippedRows.map((row) => JSON.parse(row) as SkippedRow) }
  })

/** The stage's output, checked as the store would, its metrics, and the rows that it skipped, of which any number is allowed unless `skippedLimit` is given. */
export const runStage = (
  stage: AnyStage,
  inputs: Inputs,
  config: Record<string, unknown> = {},
  seed = 1,
  skippedLimit: number | null = 1
) => Effect.runPromise(effectOf(stage, inputs, config, seed, {}, skippedLimit))

/** The same as an effect, with custom checkpoints and progress. */
export const stageEffect = (
  stage: AnyStage,
  inputs: Inputs,
  config: Record<string, unknown>,
  over: Partial<Pick<Context, "checkpoints" | "progress">>
) => effectOf(stage, inputs, config, 1, over)

/** The message with which the stage fails; `skippedLimit` is the run's setting, or null for the default. */
export const failureOf = async (
  stage: AnyStage,
  inputs: Inputs,
  config: Record<string, unknown> = {},
  skippedLimit: number | null = 1
): Promise<string> => (await Effect.runPromise(Effect.flip(effectOf(stage, inputs, config, 1, {}, skippedLimit)))).message
