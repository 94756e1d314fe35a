/** Human preferences of the small world (§3.2.1): pairs of two models' answers, judged by the world's oracle. */
import type { Preference, Prompt, ResponsePair } from "../../schemas/rows.ts"
import { mixPrompts } from "../../stages/data/mix.ts"
import { continueDialogues } from "../../stages/data/prompts.ts"
import { annotateByOracle } from "../../stages/world/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { type ByKind, byKind, type Kind, type Policy, type Rows } from "../nodes.ts"
import { samplingOf, type WorldParams } from "./params.ts"
import { type PromptSets, roundOf } from "./prompts.ts"

/** The models' answers at two temperatures, and which of them the oracle prefers. */
export const judgedPairs = (
  models: { readonly first: Policy; readonly second: Policy; readonly prompts: Rows<Prompt> },
  kind: Kind,
  params: Parameters<typeof samplingOf>[0] & Pick<WorldParams, "noise">,
  names: { readonly pairs: string; readonly preferences: string }
) => {
  const pairs = collectPairs(models, { ...samplingOf(params), temperatureFirst: 1, temperatureSecond: 1.3 }).named(names.pairs)
  return { pairs, preferences: annotateByOracle({ pairs }, { kind, noise: params.noise }).named(names.preferences) }
}

/** What a round collects. */
export interface RoundPairs {
  readonly prompts: ByKind<Rows<Prompt>>
  readonly pairs: ByKind<Rows<ResponsePair>>
  readonly preferences: ByKind<Rows<Preference>>
  /** On held-out prompts, for the evaluation of reward models alone. */
  readonly test: ByKind<Rows<Preference>>
}

/** The round's new prompts, and some of the helpfulness dialogues of the round before, which go on after the chosen answer (A.3.1). */
const askedIn = (round: number, kind: Kind, params: WorldParams, { forPairs }: PromptSets, last?: RoundPairs): Rows<Prompt> => {
  const first = roundOf(forPairs[kind], round, params, `batch-${kind}`)
  if (kind === "safety" || params.multiTurn === 0 || last === undefined) return first
  const grown = continueDialogues({ prompts: last.prompts[kind], preferences: last.preferences[kind] }).named(`dialogues-${round}`)
  return mixPrompts({ datasets: [first, grown] }, { weights: [1, params.multiTurn] }).named(`prompts-${round}`)
}

/** Pairs of the latest model's answers and of the one's before. */
export const collectRound = (
  round: number,
  params: WorldParams,
  sets: PromptSets,
  { before, latest }: { readonly latest: Policy; readonly before: Policy },
  last?: RoundPairs
): RoundPairs => {
  const collect = (prompts: Rows<Prompt>, kind: Kind, name: string) =>
    judgedPairs({ first: latest, second: before, prompts }, kind, params, {
      pairs: `pairs-${name}-${round}`,
      preferences: `preferences-${name}-${round}`
    })
  const prompts = byKind((kind) => askedIn(round, kind, params, sets, last))
  const collected = byKind((kind) => collect(prompts[kind], kind, kind))
  return {
    prompts,
    pairs: byKind((kind) => collected[kind].pairs),
    preferences: byKind((kind) => collected[kind].preferences),
    test: byKind((kind) => {
      const held = roundOf(sets.forTestPairs[kind], round, params, `test-batch-${kind}`)
      return collect(held, kind, `test-${kind}`).preferences
    })
  }
}

/** What all rounds so far collected. */
export const allRounds = (rounds: ReadonlyArray<RoundPairs>) => ({
  pairs: byKind((kind) => rounds.map(({ pairs }) => pairs[kind])),
  preferences: byKind((kind) => rounds.map(({ preferences }) => preferences[kind])),
  test: byKind((kind) => rounds.map(({ test }) => test[kind]))
})
export type Collected = ReturnType<typeof allRounds>
