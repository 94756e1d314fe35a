/** What the versions of pipelines/rlhf.ts answer to published sets of prompts, where those are given. */
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { xsTest } from "../../stages/evaluation/xstest.ts"
import type { Policy } from "../nodes.ts"
import type { Data } from "./data.ts"
import { greedy, type Params } from "./params.ts"

/** The last version is compared with all others. */
export const publishedSets = (versions: Readonly<Record<string, Policy>>, { xstest }: Data, params: Params) => {
  const names = Object.keys(versions)
  if (xstest === undefined) return {}
  const completions = names.map((name) => sample({ policy: versions[name]!, prompts: xstest }, greedy(params)).named(`xstest-${name}`))
  return { xsTest: xsTest({ completions, prompts: xstest }, { names }).named("xstest") }
}
