/** Prompts of the small world: for pairs, for rejection sampling and PPO, and held-out ones with words and phrasings that no model saw. */
import type { Prompt } from "../../schemas/rows.ts"
import { mixPrompts } from "../../stages/data/mix.ts"
import { promptBatch } from "../../stages/data/prompts.ts"
import { worldPrompts } from "../../stages/world/data.ts"
import { byKind, type Kind, kinds, type Rows } from "../nodes.ts"
import type { WorldParams } from "./params.ts"

type Split = "train" | "heldOut"

export const promptsOf = (
  kind: Kind | "adversarial",
  split: Split,
  count: number,
  name: string,
  seed: number,
  { followUps = 0, part = "all" }: { readonly followUps?: number; readonly part?: "all" | "judging" | "tuning" } = {}
): Rows<Prompt> => worldPrompts({}, { kind, split, count, seed, followUps, part }).named(`${name}-${kind}`)

/** Helpfulness and safety prompts, in these numbers. */
export const promptsOfBoth = (
  name: string,
  split: Split,
  counts: readonly [number, number],
  seed: number,
  part: "all" | "judging" | "tuning" = "all"
): Rows<Prompt> =>
  mixPrompts({ datasets: kinds.map((kind, i) => promptsOf(kind, split, counts[i]!, name, seed, { part })) }, { weights: [1, 1] }).named(
    name
  )

export const promptSets = ({ heldOut, multiTurn, pairs, prompts, rounds, testPairs }: WorldParams) => ({
  /** For the pairs of all rounds; helpfulness dialogues may continue in the next round. */
  forPairs: {
    helpfulness: promptsOf("helpfulness", "train", rounds * pairs, "prompts-for-pairs", 1, { followUps: multiTurn > 0 ? 2 : 0 }),
    safety: promptsOf("safety", "train", rounds * pairs, "prompts-for-pairs", 1)
  },
  /** §3.2.2: for pairs held out of every round. */
  forTestPairs: byKind((kind) => promptsOf(kind, "heldOut", testPairs, "test-prompts", 4)),
  /** For rejection sampling and PPO. */
  pool: promptsOfBoth("pool", "train", [prompts, Math.ceil(prompts / 2)], 2),
  /** For PPO's early stopping. */
  ppoHeldOut: promptsOfBoth("ppo-held-out", "train", [Math.ceil(prompts / 8), Math.ceil(prompts / 16)], 7),
  /** For evaluating versions. */
  heldOut: promptsOfBoth("held-out", "heldOut", [heldOut, heldOut], 3),
  /** For sampling the last version at several temperatures. */
  sweep: promptsOfBoth("sweep-prompts", "heldOut", [40, 20], 8)
})
export type PromptSets = ReturnType<typeof promptSets>

/** One round's share of the prompts. */
export const roundOf = (prompts: Rows<Prompt>, round: number, { rounds }: WorldParams, name: string): Rows<Prompt> =>
  promptBatch({ prompts }, { batches: rounds, batch: round - 1 }).named(`${name}-${round}`)
