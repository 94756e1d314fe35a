/** Human preferences in pipelines/llama2-chat.ts (§3.2.1): each round's pairs, annotated by people or by a judge, and their held-out part. */
import { join } from "node:path"
import type { Preference, Prompt, ResponsePair } from "../../schemas/rows.ts"
import { mixPrompts } from "../../stages/data/mix.ts"
import { continueDialogues, holdOutPreferences, promptBatch } from "../../stages/data/prompts.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { type ByKind, byKind, type Kind, type Policy, type Rows } from "../nodes.ts"
import { everyRound, type Named } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { answers, ours, type Params, samplingOf } from "./params.ts"

/** The pairs that a round collects for one kind. */
export interface RoundPairs {
  readonly questions: Rows<Prompt>
  readonly shown: Rows<ResponsePair>
  readonly annotated: Rows<Preference>
  readonly train: Rows<Preference>
  readonly test: Rows<Preference>
}

/** A batch of new dialogues, and the dialogues of the previous round extended by one turn (A.3.1). */
const questionsOf = (round: number, kind: Kind, { rounds }: Params, { firstQuestions }: Datasets, named: Named, last?: RoundPairs) => {
  const batch = named(promptBatch({ prompts: firstQuestions[kind] }, { batches: rounds, batch: round - 1 }), `batch-${kind}-${round}`)
  const grown = last === undefined ? [] : [continueDialogues({ prompts: last.questions, preferences: last.train })]
  // Table 6's mean over all rounds is used for each round.
  return named(
    mixPrompts({ datasets: [batch, ...grown] }, { weights: [1, ...grown.map(() => 1)] }),
    `questions-${kind}-${round}`
  ).expecting({ promptTokens: ours.example - ours.response })
}

const annotatedBy = (round: number, kind: Kind, pairs: Rows<ResponsePair>, params: Params, { file }: Datasets): Rows<Preference> =>
  annotate(
    { pairs, ...(round <= params.labelled ? { labels: file(`labels-${kind}-${round}`) } : {}) },
    {
      ...{ annotator: params.annotator, kind, url: params.url, model: params.judge, keyVariable: params.keyVariable },
      pairsFile: join(params.data, `to-label-${kind}-${round}.jsonl`),
      labelsFile: join(params.data, `labels-${kind}-${round}.jsonl`),
      labelsHint: `save it as ${join(params.data, `labels-${kind}-${round}.jsonl`)} and, once both kinds of round ${round} are labelled, run again with --set labelled=${round}`
    }
  )

/** Collects pairs of answers from the latest model and the one before. */
export const collectRound = (
  round: number,
  params: Params,
  data: Datasets,
  named: Named,
  { before, latest }: { readonly latest: Policy; readonly before: Policy },
  last?: ByKind<RoundPairs>
): ByKind<RoundPairs> =>
  byKind((kind) => {
    const questions = questionsOf(round, kind, params, data, named, last?.[kind])
    const shown = named(
      collectPairs({ first: latest, second: before, prompts: questions }, samplingOf(params)),
      `pairs-${kind}-${round}`
    ).expecting(answers)
    const annotated = named(annotatedBy(round, kind, shown, params, data), `preferences-${kind}-${round}`)
    // §3.2.2: 1000 pairs of each batch are held out. Their dialogues are not continued: training pairs of later rounds would contain the chosen answers.
    const part = (part: "train" | "test") => named(holdOutPreferences({ preferences: annotated }, { part }), `${part}-${kind}-${round}`)
    return { questions, shown, annotated, train: part("train"), test: part("test") }
  })

/** The pairs of all rounds so far. */
export const allRounds = (rounds: ReadonlyArray<ByKind<RoundPairs>>) => ({
  shown: everyRound(rounds, ({ shown }) => shown),
  annotated: everyRound(rounds, ({ annotated }) => annotated),
  preferences: everyRound(rounds, ({ train }) => train),
  tests: everyRound(rounds, ({ test }) => test)
})
export type Collected = ReturnType<typeof allRounds>
