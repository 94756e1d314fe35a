/** Training curves: the numbers that stages reported at each step, with a figure per training stage and a line per node (Llama 2 figure 5 for pretraining). */
import { visible } from "../../schemas/visible.ts"
import { type Figure, series, type Section } from "./figure.ts"

/** The numbers that a node reported, each with its steps. */
export interface NodeCurve {
  readonly node: string
  readonly stage: string
  readonly series: ReadonlyMap<string, { readonly steps: ReadonlyArray<number>; readonly values: ReadonlyArray<number> }>
}

/** Maximum number of points per line. */
const maxPoints = 60
/** Maximum number of lines per figure; if there are more, the last ones are shown. */
const maxLines = 14
const maxPanels = 9

/** Reported numbers that do not measure training, or are shown elsewhere. */
const notShown = /^(seconds|memory|tokens|gpu.*|.*Seconds|learningRate|total)$/i
/** Shown first. */
const first = ["loss", "heldOutLoss", "accuracy", "reward", "heldOutReward", "kl", "gradientNorm", "tokensPerSecond"]
const rank = (name: string): number => (first.includes(name) ? first.indexOf(name) : name === "tokensPerSecond" ? 100 : 50)

/** 0.5, 12, 3.4k. */
const short = "abs(datum.value) >= 1000 ? format(datum.value, '.3~s') : format(datum.value, '.3~g')"

/** Means of consecutive values, without NaN and infinite ones; null for a part without finite values. */
const thinned = (
  steps: ReadonlyArray<number>,
  values: ReadonlyArray<number>
): Array<{ readonly step: number; readonly value: number | null }> => {
  const parts = Math.min(maxPoints, values.length)
  return Array.from({ length: parts }, (_, i) => {
    const [from, to] = [Math.floor((i * values.length) / parts), Math.floor(((i + 1) * values.length) / parts)]
    const some = values.slice(from, to).filter((value) => Number.isFinite(value))
    return { step: steps[to - 1]!, value: some.length === 0 ? null : some.reduce((sum, value) => sum + value, 0) / some.length }
  })
}

/** "2 of 9 values of loss of sft are NaN or infinite, the first at step 7." */
const notNumbers = (curves: ReadonlyArray<NodeCurve>): ReadonlyArray<string> =>
  curves.flatMap(({ node, series: of }) =>
    [...of].flatMap(([name, { steps, values }]) => {
      const at = values.findIndex((value) => !Number.isFinite(value))
      if (at === -1) return []
      const count = values.filter((value) => !Number.isFinite(value)).length
      return [`${count} of ${values.length} values of ${name} of ${node} are NaN or infinite, the first at step ${steps[at]}.`]
    })
  )

const figureOf = (stage: string, all: ReadonlyArray<NodeCurve>): Figure | undefined => {
  const curves = all.slice(-maxLines)
  const names = [...new Set(curves.flatMap(({ series: of }) => [...of.keys()]))]
    .filter((name) => !notShown.test(name))
    .toSorted((a, b) => rank(a) - rank(b))
    .slice(0, maxPanels)
  // Throughput alone does not measure training.
  if (names.every((name) => name === "tokensPerSecond")) return undefined
  const rows = curves.flatMap(({ node, series: of }) =>
    names.flatMap((what) => {
      const found = of.get(what)
      return found === undefined ? [] : thinned(found.steps, found.values).map(({ step, value }) => ({ node, what, step, value }))
    })
  )
  if (rows.every(({ value }) => value === null)) return undefined
  const nodes = curves.map(({ node }) => visible(node))
  const longest = Math.max(...[...Map.groupBy(rows, ({ node, what }) => `${node} ${what}`).values()].map((line) => line.length))
  return {
    id: "training-curves",
    part: stage,
    title: `${stage}: ${names.includes("loss") ? "loss and other reported numbers" : "reported numbers"} by step`,
    caption: `${all.length > curves.length ? `The last ${curves.length} of ${all.length} nodes. ` : ""}Means of consecutive steps, at most ${maxPoints} points per line; a gap in a line means NaN or infinite values.`,
    rows,
    spec: {
      facet: { field: "what", type: "nominal", title: null, sort: names },
      columns: 3,
      spec: {
        width: 190,
        height: 110,
        mark: { type: "line", strokeWidth: 1.2, ...(longest <= 12 ? { point: { size: 12 } } : {}) },
        encoding: {
          x: { field: "step", type: "quantitative", title: null, axis: { tickCount: 4, labelExpr: short } },
          y: {
            field: "value",
            type: "quantitative",
            title: null,
            scale: { zero: false },
            axis: { minExtent: 34, maxExtent: 34, tickCount: 4, labelExpr: short }
          },
          color: { ...series("node", null, nodes), ...(nodes.length === 1 ? { legend: null } : {}) }
        }
      },
      resolve: { scale: { y: "independent", x: "independent" } },
      spacing: 14
    }
  }
}

/** Figure 5: the loss of pretraining against the number of tokens read. */
const pretrainingFigure = (curves: ReadonlyArray<NodeCurve>): Figure | undefined => {
  const rows = curves.flatMap(({ node, series: of }) => {
    const [loss, tokens] = [of.get("loss"), of.get("tokens")]
    if (loss === undefined || tokens === undefined) return []
    let sum = 0
    const after = new Map(tokens.steps.map((step, i) => [step, (sum += tokens.values[i]!)]))
    return thinned(loss.steps, loss.values).flatMap(({ step, value }) => {
      const read = after.get(step)
      return read === undefined || value === null ? [] : [{ model: node, tokens: read, loss: value, perplexity: Math.exp(value) }]
    })
  })
  if (rows.length === 0) return undefined
  const models = [...new Set(rows.map(({ model }) => visible(model)))]
  return {
    id: "pretraining-loss",
    title: "Loss of pretraining by tokens",
    caption: `Nats per token on the training sequences, means of consecutive steps, by the number of tokens read. In the paper no model's loss has levelled off after 2 trillion tokens.`,
    rows,
    spec: {
      width: 520,
      height: 260,
      mark: { type: "line" },
      encoding: {
        x: { field: "tokens", type: "quantitative", title: "tokens", axis: { format: "~s" } },
        y: { field: "loss", type: "quantitative", title: "loss, nats per token", scale: { zero: false } },
        color: { ...series("model", null, models), ...(models.length === 1 ? { legend: null } : {}) }
      }
    }
  }
}

/** The curves of all trained nodes, stage by stage in the order of the run. */
export const trainingSection = (curves: ReadonlyArray<NodeCurve>): Section => {
  const byStage = [...Map.groupBy(curves, ({ stage }) => stage)]
  const pretraining = pretrainingFigure(curves.filter(({ stage }) => stage === "pretrain"))
  return {
    title: "Training curves",
    text: notNumbers(curves),
    figures: [...(pretraining === undefined ? [] : [pretraining]), ...byStage.flatMap(([stage, some]) => figureOf(stage, some) ?? [])]
  }
}
