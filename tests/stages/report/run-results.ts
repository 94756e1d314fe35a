/** Results of a run for tests of the report. */
import * as Effect from "effect/Effect"
import { writeReport } from "../../../data/dataset.ts"
import type { ArtifactRef, ReportType } from "../../../schemas/artifact.ts"
import { chapters } from "../../../stages/report/chapters.ts"
import { type Result, Results } from "../../../stages/report/results.ts"
import { artifact } from "../running.ts"

export const reportArtifact = <Content>(type: ReportType<Content>, content: Content) => artifact(type, (slot) => writeReport(slot, content))

/** A mean with an interval of 0.1 on each side. */
export const estimate = (mean: number) => ({ mean, low: mean - 0.1, high: mean + 0.1 })

/** The figures and tables of the report on a run with these results. */
export const shownOn = async (results: ReadonlyArray<Result>) =>
  (await Effect.runPromise(chapters(new Results(results), []))).flatMap(({ figures = [], tables = [] }) => [...figures, ...tables])

export const result = (
  node: string,
  stage: string,
  ref: ArtifactRef<any>,
  inputs: Result["inputs"] = {},
  config: Result["config"] = {}
): Result => ({
  ...{ node, stage, inputs, config, type: ref.type, path: ref.path, digest: `${ref.digest} ${node}`, contentDigest: ref.contentDigest }
})

/** A node whose result nobody reads here. */
export const other = (node: string, stage: string, inputs: Result["inputs"] = {}, config: Result["config"] = {}): Result => ({
  ...{ node, stage, inputs, config, type: `checkpoint:${stage}`, path: "/nowhere", digest: node, contentDigest: node }
})
