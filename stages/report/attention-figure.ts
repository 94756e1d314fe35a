/** Attention maps of a dialogue, without Ghost Attention and with it (Llama 2 §3.3, figure 10). */
import type { AttentionMap } from "../ghost-attention/attention-map.ts"
import { axis, colour, type Figure, palette } from "./figure.ts"

const names = { without: "without Ghost Attention", with: "with it" } as const

const partName = ({ kind, turn }: AttentionMap["parts"][number]): string => (kind === "instruction" ? kind : `${kind} ${turn}`)

/** The instruction's text, shortened for a caption. */
const quoted = (text: string): string => JSON.stringify(text.length > 160 ? `${text.slice(0, 160)}…` : text)

/** Figure 10: darker is a larger weight; each row shows the attention of a bin of tokens. */
export const attentionMapFigure = ({ dialogue, instruction, maps, parts, tokens, tokensPerBin }: AttentionMap): Figure => {
  const rows = maps.flatMap(({ model, rows: found }) =>
    found.flatMap((row, query) =>
      row.map((weight, key) => ({ model: names[model], query, key, queryEnd: query + 1, keyEnd: key + 1, weight }))
    )
  )
  const bins = Math.ceil(tokens / tokensPerBin)
  // A label in the middle of each answer and of the instruction; a line where each question starts.
  const labelled = parts.filter(({ kind }) => kind !== "question")
  const middles = labelled.map(({ from, to }) => (from + to) / 2 / tokensPerBin)
  const labelExpr = labelled.reduceRight((rest, part, i) => `datum.value === ${middles[i]!} ? '${partName(part)}' : ${rest}`, "''")
  const lines = parts.filter(({ kind, turn }) => kind === "question" && turn > 1).map(({ from }) => ({ at: from / tokensPerBin }))
  const place = (field: string, title: string, over: object, axisOver: object = {}) => ({
    ...{ field, type: "quantitative", title, scale: { domain: [0, bins], nice: false, ...over } },
    axis: { values: middles, labelExpr, grid: false, ticks: true, labelOverlap: "greedy", ...axisOver }
  })
  const x = place("key", "attended tokens", {}, { labelAngle: -90, maxExtent: 64 })
  const y = place("query", "attending tokens", { reverse: true })
  const line = { type: "rule", strokeDash: [2, 3], opacity: 0.5 }
  const { heads, layers } = maps[0]!
  return {
    id: "attention-map",
    title: "Attention in a dialogue with an instruction",
    caption: `The same dialogue (${JSON.stringify(dialogue)}, ${tokens} tokens) read by both models, with the instruction ${quoted(instruction)} only in its first turn. A stronger colour is a larger attention weight: the maximum over ${layers} layers x ${heads} heads and over bins of ${tokensPerBin} tokens, from 0 to 1. Rows are attending bins of tokens, columns attended bins; dotted lines mark the start of questions. With Ghost Attention the column of the instruction should keep its colour in later turns. A single dialogue illustrates the weights, but does not show a general difference.`,
    rows,
    spec: {
      facet: { column: { field: "model", type: "nominal", title: null, sort: Object.values(names) } },
      spec: {
        width: 270,
        height: 270,
        layer: [
          {
            mark: { type: "rect", color: palette[0], clip: true },
            encoding: {
              ...{ x, y, x2: { field: "keyEnd" }, y2: { field: "queryEnd" } },
              opacity: { field: "weight", type: "quantitative", scale: { domain: [0, 1], range: [0, 1] }, legend: null }
            }
          },
          ...(lines.length === 0
            ? []
            : [
                { data: { values: lines }, mark: line, encoding: { x: { field: "at", type: "quantitative" } } },
                { data: { values: lines }, mark: line, encoding: { y: { field: "at", type: "quantitative" } } }
              ])
        ]
      }
    }
  }
}

/** How much the answers attend to the instruction, by answer. */
export const instructionAttentionFigure = ({ byAnswer }: AttentionMap): Figure | undefined => {
  if (byAnswer.length === 0) return undefined
  const rows = byAnswer.flatMap((one) =>
    (["without", "with"] as const).map((which) => ({ model: names[which], answer: one.turn, attention: one[which] }))
  )
  return {
    id: "instruction-attention",
    title: "Attention of each answer to the instruction",
    caption:
      "In the same dialogue: for each position that predicts an answer token, the maximum weight on any token of the instruction over all layers and heads shown; averaged over the answer.",
    rows,
    spec: {
      width: 420,
      height: 200,
      mark: { type: "line", point: true },
      encoding: {
        x: { field: "answer", type: "ordinal", title: "answer", axis: { labelAngle: 0 } },
        y: axis("attention", "attention weight", { scale: { domain: [0, 1] } }),
        color: colour("model", null, Object.values(names))
      }
    }
  }
}
