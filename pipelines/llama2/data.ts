/** The datasets of pipelines/llama2-chat.ts: the user's files, their held-out parts, and which of the prompts are safety prompts (§3.2.3: is_safety). */
import { join } from "node:path"
import type { Sizes } from "../../runtime/define/cost.ts"
import { fileAt } from "../../runtime/define/node.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { filterDemonstrations } from "../../stages/data/filter-demonstrations.ts"
import { importDemonstrations } from "../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { importPrompts } from "../../stages/data/import-prompts.ts"
import { mixDemonstrations, mixPrompts } from "../../stages/data/mix.ts"
import { holdOutPreferences, promptBatch } from "../../stages/data/prompts.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { classifyPrompts } from "../../stages/safety/classify.ts"
import { type ByKind, byKind, kinds, type Policy, type Rows } from "../nodes.ts"
import { exchange, ours, type Params, rows, table6, tensors } from "./params.ts"

const fileOf = ({ data }: Params, name: string, sizes: Sizes = {}) => fileAt(join(data, `${name}.jsonl`)).expecting(sizes)

const promptsOf = (params: Params, name: string, count: number, safety: boolean): Rows<Prompt> =>
  importPrompts(
    { file: fileOf(params, name, { ...rows(count), promptTokens: ours.prompt, safetyShare: safety ? 1 : 0 }) },
    { safety, chatTags: params.chatTags }
  ).named(name)

/** Demonstrations for SFT's two steps (§3.1). The second includes safety SFT (§4.2.2); the paper's number counts both kinds. */
const demonstrationSets = (params: Params) => {
  const { chatTags } = params
  const demonstrationsOf = (name: string, count: number) =>
    importDemonstrations({ file: fileOf(params, name, { ...rows(count), ...exchange }) }, { chatTags }).named(name)
  const safe = importDemonstrations({ file: fileOf(params, "safety-demonstrations", { rows: 0 }) }, { chatTags })
  return {
    publicDialogues: filterDemonstrations({ demonstrations: demonstrationsOf("public-demonstrations", params.publicDialogues) }),
    demonstrations: mixDemonstrations(
      { datasets: [demonstrationsOf("demonstrations", params.annotations), safe] },
      { weights: [1, 1] }
    ).named("all-demonstrations")
  }
}

/** Open-source preferences (table 6). A part of each set is held out to test reward models (table 7). */
const openSets = (params: Params) => {
  const sets = Object.entries(params.openSource ? table6 : {}).map(([name, [count, example, response]]) => ({
    name,
    pairs: importPreferences(
      { file: fileOf(params, name, { rows: count, promptTokens: example - response, responseTokens: response }) },
      { source: name, chatTags: params.chatTags }
    ).named(name)
  }))
  const parts = (part: "train" | "test") =>
    sets.map(({ name, pairs }) => ({ name, pairs: holdOutPreferences({ preferences: pairs }, { part }).named(`${part}-${name}`) }))
  const train = parts("train")
  return {
    openSource: train.map(({ pairs }) => pairs),
    harmless: train.filter(({ name }) => name === "anthropic-harmless").map(({ pairs }) => pairs),
    openTests: parts("test")
  }
}

/**
 * The prompts for which pairs are collected. Dialogues grow by one turn per round (A.3.1): each round adds the same number of new prompts and continues all
 * previous ones, so R rounds collect (R + 1) / 2 pairs per prompt.
 */
const questionsOf = (params: Params): ByKind<Rows<Prompt>> =>
  byKind((kind) => {
    const share = kind === "safety" ? params.safetyShare : 1 - params.safetyShare
    return promptsOf(params, `pairs-${kind}`, Math.round((params.pairs * share * 2) / (params.rounds + 1)), kind === "safety")
  })

/** A classifier that tags prompts. Trained on half of the prompts for which pairs are collected, whose kind is known; the other half evaluates it. */
const taggerOf = (init: Policy, questions: ByKind<Rows<Prompt>>) => {
  const half = (batch: number) =>
    kinds.map((kind) => promptBatch({ prompts: questions[kind] }, { batches: 2, batch }).named(`tagger-${kind}-${batch + 1}`))
  const examples = safetyClassifierData({ prompts: half(0), preferences: [] }).named("tagger-data")
  return { classifier: safetyClassifier({ init, examples }, tensors).named("tagger"), prompts: half(1) }
}
type Tagger = ReturnType<typeof taggerOf>

/** Prompts of both kinds, and the adversarial prompts among them: according to the tags in the data, or to the tagger. */
const promptsOfBoth = (params: Params, tagger: Tagger | undefined, name: string, count: number) => {
  const { safetyShare } = params
  if (tagger === undefined) {
    const adversarial = Math.round(count * safetyShare)
    const safety = promptsOf(params, `${name}-safety`, adversarial, true)
    const datasets = [promptsOf(params, `${name}-helpfulness`, count - adversarial, false), safety]
    return { all: mixPrompts({ datasets }, { weights: [1, 1] }).named(name), adversarial: safety }
  }
  const file = fileOf(params, name, { ...rows(count), promptTokens: ours.prompt, safetyShare })
  const prompts = importPrompts({ file }, { chatTags: params.chatTags }).named(`${name}-untagged`)
  const found = (keep: "all" | "unsafe") => classifyPrompts({ classifier: tagger.classifier, prompts }, { ...tensors, keep })
  return { all: found("all").named(name), adversarial: found("unsafe").named(`${name}-safety`) }
}

/** Separates prompts for PPO's early stopping: selecting a policy on the evaluation prompts would make it look better than it is. */
const heldOutParts = (prompts: Rows<Prompt>) => {
  const batchOf = (batch: number) =>
    promptBatch({ prompts }, { batches: 8, batch }).named(batch === 0 ? "ppo-held-out" : `held-out-${batch}`)
  const judgedOn = [1, 2, 3, 4, 5, 6, 7].map(batchOf)
  return {
    ppoHeldOut: batchOf(0),
    heldOut: mixPrompts({ datasets: judgedOn }, { weights: judgedOn.map(() => 1) }).named("judged-on")
  }
}

/** `guardBase`: the model from which the classifier that tags prompts is tuned, if the data has no tags. */
export const datasets = (params: Params, guardBase: Policy) => {
  const firstQuestions = questionsOf(params)
  const tagger = params.tags === "data" ? undefined : taggerOf(guardBase, firstQuestions)
  const pool = promptsOfBoth(params, tagger, "prompts", params.prompts)
  return {
    /** A file in the data folder. */
    file: (name: string) => fileOf(params, name),
    ...demonstrationSets(params),
    ...openSets(params),
    firstQuestions,
    ghostPrompts: (name: string) =>
      importPrompts(
        { file: fileOf(params, name, { ...rows(params.dialogues), promptTokens: ours.prompt }) },
        { chatTags: params.chatTags }
      ).named(name),
    /** §4.2.3, figure 33: prompts that sound adversarial but are not. */
    borderline: promptsOf(params, "held-out-borderline", params.borderline, false),
    /** Prompts for rejection sampling and PPO, and the adversarial ones among them. */
    pool: pool.all,
    adversarial: pool.adversarial,
    ...heldOutParts(promptsOfBoth(params, tagger, "held-out", params.heldOut).all),
    /** The classifier that tags prompts, if the data has no tags, and its evaluation data. */
    tagger
  }
}
export type Datasets = ReturnType<typeof datasets>
