/** How long instructions are kept (Llama 2 §3.3, table 30), never-trained instructions (figure 28), and a judge compared with the check by text. */
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
    /** Dialogues with a question at this turn; and those that reached it. */
    readonly due: number
    readonly came: number
    readonly kept: number
  }>
  /** Dialogues that ended before their last question. */
  readonly ended: number
  readonly dialogues: number
}

/** According to texts or the world's oracle. `questions`: the number per dialogue, by id; an unknown dialogue counts with the maximum number of turns. */
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

/** According to a judge. */
export const judgedLine = (name: string, { byTurn, dialogues, endedEarly: e, judge }: JudgedGhostAttention): KeptLine => ({
  name: `${name}, by ${judge}`,
  dialogues,
  ended: e.empty + e.format + e.tooLong + e.unfinished,
  turns: byTurn.map(({ answered, dialogues: due, kept, turn }) => ({ turn, due, came: answered, kept: Math.round(kept.mean * due) }))
})

const all = "of all dialogues with that turn"
const some = "of those that reached it"

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
  const share = "share kept"
  // The caption explains the dotted lines.
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
  `Solid lines include all dialogues with a question at that turn: one that ended earlier counts as not keeping the instruction (${lines.map(({ dialogues, ended, name }) => `${ended} of ${dialogues} of ${name}`).join(", ")}). Where some ended, dotted lines include only those that reached the turn. Bars are 95% Wilson intervals.`

/** Table 30. */
export const keptByTurnFigure = (lines: ReadonlyArray<KeptLine>): Figure | undefined =>
  keptFigure(lines, {
    id: "ghost-attention",
    title: "How long an instruction is kept",
    caption: `Share of answers that keep the first turn's instruction, on held-out dialogues. ${endings(lines)} In the paper, judged by people: 100% at 20 turns with Ghost Attention, 0% from turn 6 on without.`
  })

/** Figure 28. */
export const neverTrainedFigure = (lines: ReadonlyArray<KeptLine>, instructions: ReadonlyArray<string>): Figure | undefined => {
  const shown = instructions.slice(0, 4).map((text) => JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text))
  return keptFigure(lines, {
    id: "never-trained-instructions",
    title: "Never-trained instructions",
    caption: `Share of answers that keep an instruction that is in no dialogue of Ghost Attention's training data: ${shown.join(", ")}${instructions.length > shown.length ? ` and ${instructions.length - shown.length} more` : ""}. ${endings(lines)} Other training data may contain them. The paper shows one dialogue in which such an instruction is kept.`
  })
}

/** An example dialogue of an evaluation, turn by turn. */
export const keptExampleTable = (name: string, { answers, instruction, kept, questions }: Ghost["examples"][number]): Table => ({
  id: "never-trained-instructions",
  title: `A dialogue of ${name}`,
  caption: `With the instruction ${JSON.stringify(instruction)} only in the first turn.`,
  rows: questions.map((question, i) => ({
    turn: i + 1,
    kept: i < kept.length ? (kept[i] ? "yes" : "no") : null,
    question,
    answer: answers[i] ?? null
  }))
})

/** Compares the two checks. */
export const judgeBesideTextTable = (
  judged: ReadonlyArray<{ readonly name: string; readonly content: JudgedGhostAttention }>
): Table | undefined => {
  const rows = judged.flatMap(({ content: { besideText, judge, noVerdict }, name }) => {
    if (besideText === null) return []
    const { both, judgeAlone, neither, textAlone } = besideText
    const answers = both + judgeAlone + neither + textAlone
    return [
      {
        ...{ model: name, judge, answers, "agree on": both + neither, "kept by both": both, "only the judge": judgeAlone },
        ...{ "only the text": textAlone, "no verdict": noVerdict }
      }
    ]
  })
  return rows.length === 0
    ? undefined
    : {
        id: "ghost-attention",
        title: "A judge compared with the check by text",
        caption:
          "Answers with instructions that can be checked by text, according to both checks. An answer may contain the text without keeping the instruction, and vice versa.",
        rows
      }
}
