/** Pairs of the chat model's own answers in pipelines/rlhf.ts, labelled by a judge (§3.2.1), because the reward models will score such answers. */
import type { Preference } from "../../schemas/rows.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import type { Kind, Policy, Rows } from "../nodes.ts"
import type { Data } from "./data.ts"
import { judgeOf, type Params, sampling } from "./params.ts"

export type Collected = Partial<Readonly<Record<Kind, Rows<Preference>>>>

/** Two answers to each training prompt, at two temperatures. The judge compares them once for each reward model, with that model's guideline. */
export const collected = (chat: Policy, { prompts, safety }: Data, params: Params): Collected => {
  if (params.annotator === "none") return {}
  const { batchSize, maxNewTokens, precision } = sampling(params)
  const pairs = collectPairs({ first: chat, second: chat, prompts }, { batchSize, maxNewTokens, precision }).named("collected")
  const labelled = (kind: Kind) =>
    annotate({ pairs }, { annotator: "judge", kind, source: "judge", ...judgeOf(params) }).named(`${kind}-verdicts`)
  return { helpfulness: labelled("helpfulness"), ...(safety === undefined ? {} : { safety: labelled("safety") }) }
}
