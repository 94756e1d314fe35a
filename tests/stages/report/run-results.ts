/** Results of a run for tests of the report. */
import { writeReport } from "../../../data/dataset.ts"
import type { ArtifactRef, ReportType } from "../../../schemas/artifact.ts"
import type { Result } from "../../../stages/report/results.ts"
import { artifact } from "../running.ts"

export const reportArtifact = <Content>(type: ReportType<Content>, content: Content) => artifact(type, (slot) => writeReport(slot, content))

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
