/** Human preferences of the small world (§3.2.1): pairs of two models' answers, judged by the world's oracle. */
import type { Preference, Prompt, ResponsePair } from "../../schemas/rows.ts"
import { mixPrompts } from "../../stages/data/mix.ts"
import { continueDialogues } from "../../stages/data/prompts.ts"
import { annotateByOracle } from "../../stages/world/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { type ByKind, byKind, type Kind, type Policy, type Rows } from "../nodes.ts"
import { everyRound } from "../rounds.ts"
import { samplingOf, type WorldParams } from "./params.ts"
import { type PromptSets, roundOf } from "./prompts.ts"

/** The models' answers at two temperatures, and the oracle's preference; `source` names the pairs in statistics, by default as their kind. */
export const judgedPairs = (
  models: { readonly first: Policy; readonly second: Policy; readonly prompts: Rows<Prompt> },
  kind: Kind,
  params: Parameters<typeof samplingOf>[0] & Pick<WorldParams, "noise">,
  names: { readonly pairs: string; readonly preferences: string; readonly source?: string }
) => {
  const pairs = collectPairs(models, { ...samplingOf(params), temperatureFirst: 1, temperatureSecond: 1.3 }).named(names.pairs)
  return {
    pairs,
    preferences: annotateByOracle({ pairs }, { kind, noise: params.noise, source: names.source ?? "" }).named(names.preferences)
  }
}

/** The models whose answers a round compares. */
export interface Compared {
  readonly latest: Policy
  readonly before: Policy
}

/** The pairs that a round collects for one kind. */
export interface RoundPairs {
  readonly prompts: Rows<Prompt>
  readonly pairs: Rows<ResponsePair>
  readonly preferences: Rows<Preference>
  /** Pairs on held-out prompts, only for evaluating reward models. */
  readonly test: Rows<Preference>
}

interface Collecting {
  /** The previous round's pairs, of which helpfulness dialogues continue. */
  readonly last?: ByKind<RoundPairs> | undefined
  /** Goes in front of the nodes' names. */
  readonly prefix?: string
}

/** The round's new prompts, and some of the previous round's helpfulness dialogues, continued after the chosen answer (A.3.1). */
const askedIn = (
  round: number,
  kind: Kind,
  params: WorldParams,
  { forPairs }: PromptSets,
  { last, prefix = "" }: Collecting
): Rows<Prompt> => {
  const first = roundOf(forPairs[kind], round, params, `${prefix}batch-${kind}`)
  if (kind === "safety" || params.multiTurn === 0 || last === undefined) return first
  const grown = continueDialogues({ prompts: last[kind].prompts, preferences: last[kind].preferences }).named(`${prefix}dialogues-${round}`)
  return mixPrompts({ datasets: [first, grown] }, { weights: [1, params.multiTurn] }).named(`${prefix}prompts-${round}`)
}

/** Collects pairs of answers from the latest model and the one before. */
export const collectRound = (
  round: number,
  params: WorldParams,
  sets: PromptSets,
  { before, latest }: Compared,
  collecting: Collecting
): ByKind<RoundPairs> =>
  byKind((kind) => {
    const { prefix = "" } = collecting
    const collect = (prompts: Rows<Prompt>, name: string) =>
      judgedPairs({ first: latest, second: before, prompts }, kind, params, {
        pairs: `${prefix}pairs-${name}-${round}`,
        preferences: `${prefix}preferences-${name}-${round}`
      })
    const prompts = askedIn(round, kind, params, sets, collecting)
    const testPrompts = roundOf(sets.forTestPairs[kind], round, params, `${prefix}test-batch-${kind}`)
    return { prompts, ...collect(prompts, kind), test: collect(testPrompts, `test-${kind}`).preferences }
  })

/** The pairs of all rounds so far. */
export const allRounds = (rounds: ReadonlyArray<ByKind<RoundPairs>>) => ({
  pairs: everyRound(rounds, ({ pairs }) => pairs),
  preferences: everyRound(rounds, ({ preferences }) => preferences),
  test: everyRound(rounds, ({ test }) => test)
})
export type Collected = ReturnType<typeof allRounds>
