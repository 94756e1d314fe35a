/** The datasets of pipelines/llama2-chat.ts: the user's files, what is held out of them, and which of the prompts are about safety (§3.2.3: is_safety). */
import { join } from "node:path"
import type { Sizes } from "../../runtime/define/cost.ts"
import { fileAt } from "../../runtime/define/node.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { filterDemonstrations } from "../../stages/data/filter-demonstrations.ts"
import { importDemonstrations, importPreferences } from "../../stages/data/import.ts"
import { importPrompts } from "../../stages/data/import-prompts.ts"
import { mixDemonstrations, mixPrompts } from "../../stages/data/mix.ts"
import { holdOutPreferences, promptBatch } from "../../stages/data/prompts.ts"
import { classifyPrompts } from "../../stages/safety/classify.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { exchange, type Kind, kinds, ours, type Params, type Policy, rows, type Rows, table6, tensors, training } from "./params.ts"

/** `guardBase` is what the classifier that tags prompts is tuned from, where the data has no tags. */
export const datasets = (params: Params, guardBase: Policy) => {
  const file = (name: string, sizes: Sizes = {}) => fileAt(join(params.data, `${name}.jsonl`)).expecting(sizes)

  const promptsOf = (name: string, count: number, safety: boolean) =>
    importPrompts({ file: file(name, { ...rows(count), promptTokens: ours.prompt, safetyShare: safety ? 1 : 0 }) }, { safety }).named(name)
  const demonstrationsOf = (name: string, count: number) =>
    importDemonstrations({ file: file(name, { ...rows(count), ...exchange }) }).named(name)
  const publicDialogues = filterDemonstrations({ demonstrations: demonstrationsOf("public-demonstrations", params.publicDialogues) })
  const demonstrations = mixDemonstrations(
    // §4.2.2: safety SFT. The paper's number counts both kinds.
    {
      datasets: [
        demonstrationsOf("demonstrations", params.annotations),
        importDemonstrations({ file: file("safety-demonstrations", { rows: 0 }) })
      ]
    },
    { weights: [1, 1] }
  ).named("all-demonstrations")
  const openSets = Object.entries(params.openSource ? table6 : {}).map(([name, [count, example, response]]) => ({
    name,
    pairs: importPreferences(
      { file: file(name, { rows: count, promptTokens: example - response, responseTokens: response }) },
      { format: name.startsWith("anthropic") ? "hh-rlhf" : "prompt-chosen-rejected", source: name }
    ).named(name)
  }))
  /** Table 7: a part of each is held out, to test reward models on. */
  const openParts = (part: "train" | "test") =>
    openSets.map(({ name, pairs }) => ({ name, pairs: holdOutPreferences({ preferences: pairs }, { part }).named(`${part}-${name}`) }))
  const openTrain = openParts("train")
  const openSource = openTrain.map(({ pairs }) => pairs)
  const harmless = openTrain.filter(({ name }) => name === "anthropic-harmless").map(({ pairs }) => pairs)
  /** A.3.1: dialogues grow by a turn each round, so that round r has r parts: the rounds together have 1 + 2 + ... of them. */
  const first = (kind: Kind) => {
    const share = kind === "safety" ? params.safetyShare : 1 - params.safetyShare
    return promptsOf(`pairs-${kind}`, Math.round((params.pairs * share * 2) / (params.rounds + 1)), kind === "safety")
  }
  const firstQuestions = { helpfulness: first("helpfulness"), safety: first("safety") }
  const ghostPrompts = (name: string) =>
    importPrompts({ file: file(name, { ...rows(params.dialogues), promptTokens: ours.prompt }) }).named(name)
  /** §4.2.3, figure 33: prompts that sound adversarial and are not. */
  const borderline = promptsOf("held-out-borderline", params.borderline, false)

  // ---- prompts and what they are tagged ----
  /** Of half of the prompts that pairs are collected for, whose kind is known; it is judged on the other half. */
  const halves = (batch: number) =>
    kinds.map((kind) => promptBatch({ prompts: firstQuestions[kind] }, { batches: 2, batch }).named(`tagger-${kind}-${batch + 1}`))
  const tagger = safetyClassifier(
    { init: guardBase, examples: safetyClassifierData({ prompts: halves(0), preferences: [] }).named("tagger-data") },
    training
  ).named("tagger")
  const tagged = params.tags === "data"
  const both = (name: string, count: number): readonly [all: Rows<Prompt>, safety: Rows<Prompt>] => {
    if (!tagged) {
      const { safetyShare } = params
      const prompts = importPrompts({ file: file(name, { ...rows(count), promptTokens: ours.prompt, safetyShare }) }).named(
        `${name}-untagged`
      )
      const found = (keep: "all" | "unsafe") => classifyPrompts({ classifier: tagger, prompts }, { ...tensors, keep })
      return [found("all").named(name), found("unsafe").named(`${name}-safety`)]
    }
    const adversarial = Math.round(count * params.safetyShare)
    const safety = promptsOf(`${name}-safety`, adversarial, true)
    const all = [promptsOf(`${name}-helpfulness`, count - adversarial, false), safety]
    return [mixPrompts({ datasets: all }, { weights: [1, 1] }).named(name), safety]
  }
  const [pool, adversarial] = both("prompts", params.prompts)
  // PPO stops early by prompts of its own: chosen by those that it is judged on, its last version would look better than it is.
  const [allHeldOut] = both("held-out", params.heldOut)
  const [ppoHeldOut, ...judgedOn] = Array.from({ length: 8 }, (_, batch) =>
    promptBatch({ prompts: allHeldOut }, { batches: 8, batch }).named(batch === 0 ? "ppo-held-out" : `held-out-${batch}`)
  )
  const heldOut = mixPrompts({ datasets: judgedOn }, { weights: judgedOn.map(() => 1) }).named("judged-on")

  return {
    /** A file of the folder. */
    file,
    publicDialogues,
    demonstrations,
    openSource,
    harmless,
    openTests: openParts("test"),
    firstQuestions,
    ghostPrompts,
    borderline,
    /** Prompts of rejection sampling and PPO, and the adversarial ones among them. */
    pool,
    adversarial,
    ppoHeldOut: ppoHeldOut!,
    heldOut,
    /** The classifier that tags prompts, where the data has no tags, and what it is judged on. */
    tagger: tagged ? undefined : { classifier: tagger, prompts: halves(1) }
  }
}
export type Datasets = ReturnType<typeof datasets>
