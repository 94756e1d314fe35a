/** How long instructions are kept (Llama 2 §3.3, table 30), those that were never trained (figure 28), and what a judge says beside a check by texts. */
import { proportion } from "../common/statistics.ts"
import type { GhostAttentionReport } from "../ghost-attention/evaluate.ts"
import type { JudgedGhostAttention } from "../ghost-attention/judge.ts"
import { axis, type Figure, type Rows, series, type Table } from "./figure.ts"

type Ghost = (typeof GhostAttentionReport)["content"]["Type"]

/** One model on one set of dialogues. */
export interface KeptLine {
  readonly name: string
  readonly turns: ReadonlyArray<{
    readonly turn: number
    /** Dialogues with a question there; and those that came to it. */
    readonly due: number
    readonly came: number
    readonly kept: number
  }>
  /** Dialogues that ended before their last question. */
  readonly ended: number
  readonly dialogues: number
}

/** By texts or the world's oracle. `questions`: of each dialogue, by its id; a dialogue that is not known there counts as one of the most turns. */
export const keptLine = (
  name: string,
  { byTurn, dialogues, endedEarly, kept }: Ghost,
  questions: ReadonlyMap<string, number>
): KeptLine => {
  const turns = Math.max(0, ...byTurn.map(({ turn }) => turn), ...kept.map(({ id }) => questions.get(id) ?? 0))
  return {
    name,
    dialogues,
    ended: endedEarly.empty + endedEarly.format + endedEarly.tooLong + endedEarly.unfinished,
    turns: Array.from({ length: turns }, (_, i) => ({
      turn: i + 1,
      due: kept.filter(({ id }) => (questions.get(id) ?? turns) > i).length,
      came: kept.filter((one) => one.byTurn.length > i).length,
      kept: kept.filter((one) => one.byTurn[i] === true).length
    }))
  }
}

/** By a judge. */
export const judgedLine = (name: string, { byTurn, dialogues, endedEarly: e, judge }: JudgedGhostAttention): KeptLine => ({
  name: `${name}, by ${judge}`,
  dialogues,
  ended: e.empty + e.format + e.tooLong + e.unfinished,
  turns: byTurn.map(({ answered, dialogues: due, kept, turn }) => ({ turn, due, came: answered, kept: Math.round(kept.mean * due) }))
})

const all = "of all dialogues with that turn"
const some = "of those that came to it"

const keptRows = (lines: ReadonlyArray<KeptLine>) =>
  lines.flatMap(({ name, turns }) =>
    turns.flatMap(({ came, due, kept, turn }) => {
      const row = (counted: string, of: number) => {
        const { high, low, mean } = proportion(kept, of)
        return { model: name, counted, turn, dialogues: of, kept: mean, low, high }
      }
      return [...(due > 0 ? [row(all, due)] : []), ...(came > 0 && came < due ? [row(some, came)] : [])]
    })
  )

const keptFigure = (lines: ReadonlyArray<KeptLine>, words: Pick<Figure, "id" | "title" | "caption">): Figure | undefined => {
  const rows: Rows = keptRows(lines)
  if (rows.length === 0) return undefined
  const color = series(
    "model",
    null,
    lines.map(({ name }) => name)
  )
  const x = { field: "turn", type: "ordinal", title: "turn", axis: { labelAngle: 0 } }
  const share = "share that keeps it"
  // The caption says what dotted lines are.
  const strokeDash = {
    field: "counted",
    type: "nominal",
    legend: null,
    scale: {
      domain: [all, some],
      range: [
        [1, 0],
        [3, 3]
      ]
    }
  }
  return {
    ...words,
    rows,
    spec: {
      width: 420,
      height: 240,
      layer: [
        {
          transform: [{ filter: { field: "counted", equal: all } }],
          mark: "rule",
          encoding: { x, y: axis("low", share, { scale: { domain: [0, 1] } }), y2: { field: "high" }, color }
        },
        { mark: { type: "line", point: true }, encoding: { x, y: axis("kept", share), color, strokeDash } }
      ]
    }
  }
}

const endings = (lines: ReadonlyArray<KeptLine>): string =>
  `Lines are of all dialogues with a question at that turn: one that ended before counts as not keeping it (${lines.map(({ dialogues, ended, name }) => `${ended} of ${dialogues} of ${name}`).join(", ")}). Where some ended, dotted lines are of those that came to the turn. Bars are 95% Wilson intervals.`

/** Table 30. */
export const keptByTurnFigure = (lines: ReadonlyArray<KeptLine>): Figure | undefined =>
  keptFigure(lines, {
    id: "ghost-attention",
    title: "How long an instruction is kept",
    caption: `Share of answers that keep the first turn's instruction, on held-out dialogues. ${endings(lines)} In the paper, by people: 100% at 20 turns with Ghost Attention, 0% from turn 6 on without.`
  })

/** Figure 28. */
export const neverTrainedFigure = (lines: ReadonlyArray<KeptLine>, instructions: ReadonlyArray<string>): Figure | undefined => {
  const shown = instructions.slice(0, 4).map((text) => JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text))
  return keptFigure(lines, {
    id: "never-trained-instructions",
    title: "Instructions that were never trained",
    caption: `Share of answers that keep an instruction which no dialogue of Ghost Attention's training data has: ${shown.join(", ")}${instructions.length > shown.length ? ` and ${instructions.length - shown.length} more` : ""}. ${endings(lines)} Other training data may hold them. The paper shows one dialogue in which such an instruction is kept.`
  })
}

/** What a dialogue of an evaluation looks like, turn by turn. */
export const keptExampleTable = (name: string, { answers, instruction, kept, questions }: Ghost["examples"][number]): Table => ({
  id: "never-trained-instructions",
  title: `A dialogue of ${name}`,
  caption: `Under the instruction ${JSON.stringify(instruction)}, in the first turn alone.`,
  rows: questions.map((question, i) => ({
    turn: i + 1,
    kept: i < kept.length ? (kept[i] ? "yes" : "no") : null,
    question,
    answer: answers[i] ?? null
  }))
})

/** The two checks side by side. */
export const judgeBesideTextTable = (
  judged: ReadonlyArray<{ readonly name: string; readonly content: JudgedGhostAttention }>
): Table | undefined => {
  const rows = judged.flatMap(({ content: { besideText, judge, noVerdict }, name }) => {
    if (besideText === null) return []
    const { both, judgeAlone, neither, textAlone } = besideText
    const answers = both + judgeAlone + neither + textAlone
    return [
      {
        ...{ model: name, judge, answers, "agree on": both + neither, "kept by both": both, "by the judge alone": judgeAlone },
        ...{ "by the text alone": textAlone, "no verdict": noVerdict }
      }
    ]
  })
  return rows.length === 0
    ? undefined
    : {
        id: "ghost-attention",
        title: "A judge beside the check by texts",
        caption:
          "Answers under instructions that a text can tell, by both checks. A text may be there without the instruction being kept, and the other way round.",
        rows
      }
}
