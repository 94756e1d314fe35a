/** Ghost Attention (Llama 2 §3.3): how long instructions are kept, never-trained instructions, attention maps. */
import * as Effect from "effect/Effect"
import { AttentionMapReport } from "../ghost-attention/attention-map.ts"
import { GhostAttentionReport } from "../ghost-attention/evaluate.ts"
import { GhostDialogues } from "../ghost-attention/instructions.ts"
import { JudgedGhostAttentionReport } from "../ghost-attention/judge.ts"
import { GhostSamples } from "../ghost-attention/sample.ts"
import { attentionMapFigure, instructionAttentionFigure } from "./attention-figure.ts"
import type { Section } from "./figure.ts"
import {
  judgeBesideTextTable,
  judgedLine,
  keptByTurnFigure,
  keptExampleTable,
  keptLine,
  type KeptLine,
  neverTrainedFigure
} from "./kept-figures.ts"
import type { Result, Results } from "./results.ts"

/** The instructions in Ghost Attention's training data, in full and in short. */
const trainedInstructions = Effect.fnUntraced(function* (run: Results) {
  const samples = run.of("ghost-training-data").flatMap((one) => run.inputs(one, "samples"))
  const rows = yield* Effect.forEach(samples, (one) => run.fields(one, GhostSamples, ["instruction", "trainedInstruction"]))
  return [...new Set(rows.flat().flatMap(({ instruction, trainedInstruction }) => [instruction, trainedInstruction]))]
})

/** The dialogues of an evaluation: the number of questions of each, and their instructions. */
const dialoguesOf = Effect.fnUntraced(function* (run: Results, dialogues: Result | undefined) {
  const rows = dialogues === undefined ? [] : yield* run.fields(dialogues, GhostDialogues, ["id", "instruction", "questions"])
  return {
    questions: new Map(rows.map(({ id, questions }) => [id, questions.length])),
    instructions: [...new Set(rows.map(({ instruction }) => instruction))]
  }
})

/** The name of a model in a figure: its policy's node, or the evaluation's node if there are several for one policy. */
const namesOf = (some: ReadonlyArray<{ readonly node: string; readonly policy: string | undefined }>): ReadonlyArray<string> =>
  some.map(({ node, policy }) => (policy === undefined || some.filter((one) => one.policy === policy).length > 1 ? node : policy))

export const ghostAttentionChapter = Effect.fnUntraced(function* (run: Results) {
  const trained = yield* trainedInstructions(run)
  const isTrained = (instruction: string) => trained.some((one) => one.includes(instruction))
  const byText = yield* Effect.forEach(yield* run.reports(GhostAttentionReport), (one) =>
    Effect.map(dialoguesOf(run, run.input(one, "dialogues")), (dialogues) => ({
      ...{ content: one.content, node: one.node, policy: run.input(one, "policy")?.node, ...dialogues }
    }))
  )
  const byJudge = yield* Effect.forEach(yield* run.reports(JudgedGhostAttentionReport), (one) => {
    const samples = run.input(one, "samples")
    const dialogues = samples && run.input(samples, "dialogues")
    return Effect.map(dialoguesOf(run, dialogues), ({ instructions }) => ({
      ...{ content: one.content, node: one.node, policy: samples && run.input(samples, "policy")?.node, instructions }
    }))
  })
  const isNever = ({ instructions }: { readonly instructions: ReadonlyArray<string> }) =>
    trained.length > 0 && instructions.length > 0 && !instructions.some(isTrained)
  const linesOf = (never: boolean): ReadonlyArray<KeptLine> => {
    const [texts, judged] = [byText.filter((one) => isNever(one) === never), byJudge.filter((one) => isNever(one) === never)]
    const [textNames, judgeNames] = [namesOf(texts), namesOf(judged)]
    return [
      ...texts.map(({ content, questions }, i) => keptLine(textNames[i]!, content, questions)),
      ...judged.map(({ content }, i) => judgedLine(judgeNames[i]!, content))
    ]
  }
  const [usual, never] = [linesOf(false), linesOf(true)]
  const neverInstructions = [...new Set([...byText, ...byJudge].filter(isNever).flatMap(({ instructions }) => instructions))]
  const examples = byText.filter(isNever).flatMap(({ content, node, policy }) => {
    const [example] = content.examples
    return example === undefined ? [] : [keptExampleTable(policy ?? node, example)]
  })
  const maps = yield* run.reports(AttentionMapReport)
  const mapFigures = maps.flatMap(({ content, node }) =>
    [attentionMapFigure(content), instructionAttentionFigure(content)].flatMap((figure) =>
      figure === undefined ? [] : [{ ...figure, ...(maps.length > 1 ? { part: node } : {}) }]
    )
  )
  const beside = judgeBesideTextTable(byJudge.map(({ content, node, policy }) => ({ name: policy ?? node, content })))
  const section: Section = {
    title: "Ghost Attention",
    figures: [keptByTurnFigure(usual), neverTrainedFigure(never, neverInstructions), ...mapFigures].filter(
      (figure) => figure !== undefined
    ),
    tables: [...(beside === undefined ? [] : [beside]), ...examples.slice(-2)]
  }
  return [section]
})
