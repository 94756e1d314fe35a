/**
 * The data of pipelines/rlhf.ts: pairs of each kind, held-out pairs, the training pairs in two parts, demonstrations and prompts. No training data contains
 * a question of a held-out pair: pairs are split by their first question, and other rows with one of those questions are removed.
 */
import { fileAt } from "../../runtime/define/node.ts"
import type { Demonstration, Preference, Prompt } from "../../schemas/rows.ts"
import { cleanDemonstrations, cleanPreferences, cleanPrompts } from "../../stages/data/clean.ts"
import { preferenceDemonstrations, preferencePrompts } from "../../stages/data/derive.ts"
import { importDemonstrations } from "../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { importPrompts } from "../../stages/data/import-prompts.ts"
import { mixPreferences, mixPrompts } from "../../stages/data/mix.ts"
import { splitPreferences, splitPrompts } from "../../stages/data/split.ts"
import type { Kind, Rows } from "../nodes.ts"
import { type Params, sizesOf } from "./params.ts"

/** Pairs of one kind: all training pairs, and the held-out ones. */
export interface Pairs {
  readonly prefix: string
  readonly all: Rows<Preference>
  readonly heldOut: Rows<Preference>
}
/** The pairs that train the reward models, and those that train the judges. */
export interface Parts {
  readonly training: Rows<Preference>
  readonly judging: Rows<Preference>
}
export interface Data {
  readonly helpfulness: Pairs
  readonly safety?: Pairs
  readonly demonstrations: Rows<Demonstration>
  /** Prompts for rejection sampling and PPO. */
  readonly prompts: Rows<Prompt>
  /** Prompts for PPO's early stopping. */
  readonly stopping: Rows<Prompt>
  readonly evaluation: Rows<Prompt>
  readonly xstest?: Rows<Prompt>
  readonly mtBench?: Rows<Prompt>
}

const whole = { sharedWords: 0 }
const parts = ["train", "test"] as const

/** Imports the pairs, removes duplicates and rows without content, and splits them. */
const split = (kind: Kind, params: Params) => {
  const { heldOut: share, preferences, safety } = params
  const prefix = kind === "helpfulness" ? "" : "safety-"
  const labels = safety ? ("required" as const) : ("optional" as const)
  const imported = importPreferences({ file: fileAt(preferences).expecting(sizesOf(params)) }, { judgement: kind, labels }).named(
    `${prefix}pairs`
  )
  const rows = cleanPreferences({ rows: imported, others: [], evaluation: [] }).named(`${prefix}clean-pairs`)
  const [outside, heldOut] = parts.map((part) => splitPreferences({ rows }, { share, part }).named(`${prefix}pairs-${part}`))
  const questions = preferencePrompts({ preferences: heldOut! }).named(`${prefix}held-out-questions`)
  return { prefix, outside: outside!, heldOut: heldOut!, questions }
}
type Split = ReturnType<typeof split>

/** The pairs that may be trained on. */
const trainable = ({ heldOut, outside, prefix }: Split, evaluation: ReadonlyArray<Rows<Prompt>>): Pairs => {
  const all = cleanPreferences({ rows: outside, others: [], evaluation }, whole).named(`${prefix}training-pairs`)
  return { prefix, all, heldOut }
}

/** Splits the pairs into two parts without common questions, and adds those collected from the model, if any. */
export const partsOf = ({ all, prefix }: Pairs, collected: Rows<Preference> | undefined, { judgeShare: share }: Params): Parts => {
  const rows =
    collected === undefined ? all : mixPreferences({ datasets: [all, collected] }, { weights: [1, 1] }).named(`${prefix}all-pairs`)
  const [training, judging] = parts.map((part) =>
    splitPreferences({ rows }, { share, part }).named(`${prefix}${part === "train" ? "reward" : "judge"}-pairs`)
  )
  return { training: training!, judging: judging! }
}

const demonstrationsOf = ({ demonstrations: path }: Params, pairs: Pairs, evaluation: ReadonlyArray<Rows<Prompt>>) =>
  path === ""
    ? preferenceDemonstrations({ preferences: pairs.all }).named("demonstrations")
    : cleanDemonstrations({ rows: importDemonstrations({ file: fileAt(path) }).named("dialogues"), others: [], evaluation }, whole).named(
        "demonstrations"
      )

const poolOf = ({ promptCount: count, prompts: path }: Params, pairs: Pairs, evaluation: ReadonlyArray<Rows<Prompt>>) => {
  if (path === "") return preferencePrompts({ preferences: pairs.all }, { count }).named("pool")
  const given = importPrompts({ file: fileAt(path) }).named("given-prompts")
  const clean = cleanPrompts({ rows: given, others: [], evaluation }, whole).named("clean-prompts")
  return mixPrompts({ datasets: [clean] }, { weights: [1], caps: [count] }).named("pool")
}

const publishedOf = (path: string, shape: "xstest" | "mt-bench"): Rows<Prompt> | undefined =>
  path === "" ? undefined : importPrompts({ file: fileAt(path) }, { shape }).named(`${shape}-prompts`)

export const dataOf = (params: Params): Data => {
  const helpful = split("helpfulness", params)
  const safe = params.safety ? split("safety", params) : undefined
  const xstest = publishedOf(params.xstest, "xstest")
  const mtBench = publishedOf(params.mtBench, "mt-bench")
  const questions = [helpful.questions, safe?.questions, xstest, mtBench].filter((one) => one !== undefined)
  const helpfulness = trainable(helpful, questions)
  const pool = poolOf(params, helpfulness, questions)
  const [prompts, stopping] = parts.map((part) =>
    splitPrompts({ rows: pool }, { share: 0.1, part }).named(part === "train" ? "prompts" : "stopping-prompts")
  )
  return {
    helpfulness,
    ...(safe === undefined ? {} : { safety: trainable(safe, questions) }),
    demonstrations: demonstrationsOf(params, helpfulness, questions),
    prompts: prompts!,
    stopping: stopping!,
    evaluation: preferencePrompts({ preferences: helpful.heldOut }, { count: params.evaluationPrompts }).named("evaluation-prompts"),
    ...(xstest === undefined ? {} : { xstest }),
    ...(mtBench === undefined ? {} : { mtBench })
  }
}
