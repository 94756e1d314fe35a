/** Figures of rejection sampling, from its stages' reports (Llama 2 §3.2.3). */
import type { TemperatureSweep } from "../rejection-sampling/temperature-sweep.ts"
import { axis, colour, type Figure, free, series, withIntervals } from "./figure.ts"

/** Figure 7: the expected maximum of N rewards, and the median of all, at the best temperature. */
export const maxAndMedianFigure = ({ best, byTemperature }: TemperatureSweep): Figure | undefined => {
  const at = byTemperature.find(({ temperature }) => temperature === best.temperature)
  if (at === undefined) return undefined
  const rows = at.byN.flatMap(({ max, n }) => [
    { n, what: "maximum of N", reward: max.mean, low: max.low, high: max.high },
    { n, what: "median of all", reward: at.median.mean, low: at.median.low, high: at.median.high }
  ])
  const x = {
    ...{ field: "n", type: "quantitative", title: "samples per prompt, N", scale: { type: "log", base: 2 } },
    axis: { values: [...new Set(rows.map(({ n }) => n))], format: "d" }
  }
  const color = colour("what", null, ["maximum of N", "median of all"])
  return {
    id: "max-and-median",
    title: "The best of N samples compared with the median",
    caption: `Rewards, logit(R_c), at temperature ${at.temperature}: means over prompts; bands are 95% bootstrap intervals. The gap is the potential gain of rejection sampling.`,
    rows,
    spec: {
      width: 480,
      height: 260,
      layer: withIntervals({ type: "area", opacity: 0.15 }, { x, y: axis("reward", "reward", free), color })
    }
  }
}

/** Figure 8, by version: the maximum of N at each temperature. In the paper the best temperature of RLHF models is above that of SFT. */
export const bestTemperatureFigure = (
  sweeps: ReadonlyArray<{ readonly name: string; readonly content: TemperatureSweep }>
): Figure | undefined => {
  if (sweeps.length < 2) return undefined
  const rows = sweeps.flatMap(({ content: { best, byTemperature }, name }) =>
    byTemperature.flatMap(({ byN, temperature }) => {
      const max = byN.find(({ n }) => n === best.n)?.max
      return max === undefined
        ? []
        : [{ version: name, temperature, reward: max.mean, low: max.low, high: max.high, best: best.temperature === temperature }]
    })
  )
  const x = axis("temperature", "temperature", {
    scale: { zero: false },
    axis: { values: [...new Set(rows.map(({ temperature }) => temperature))] }
  })
  const color = series(
    "version",
    "version",
    sweeps.map(({ name }) => name)
  )
  const y = axis("reward", "maximum reward of the samples", free)
  return {
    id: "best-temperature",
    title: "The best temperature by version",
    caption:
      "Expected maximum reward of all samples of a prompt, mean over prompts; bars are 95% bootstrap intervals, and each version's best temperature is circled. Each version is scored by the reward models of its round, so only the shapes of the lines and their maxima can be compared.",
    rows,
    spec: {
      width: 480,
      height: 300,
      layer: [
        ...withIntervals({ type: "rule", opacity: 0.4 }, { x, y, color }),
        { transform: [{ filter: "datum.best" }], mark: { type: "point", size: 160, strokeWidth: 1.5 }, encoding: { x, y, color } }
      ]
    }
  }
}
