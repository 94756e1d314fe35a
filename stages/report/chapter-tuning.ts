/** Rejection sampling, PPO and the methods without a critic (Llama 2 §3.2.3). */
import * as Effect from "effect/Effect"
import { BestOfNReport } from "../evaluation/evaluate-policy.ts"
import { PpoDiagnosticsReport } from "../ppo/diagnostics.ts"
import { TemperatureSweepReport } from "../rejection-sampling/temperature-sweep.ts"
import { existing, type Section } from "./figure.ts"
import { bestOfNFigure, ppoFigure } from "./figures.ts"
import type { Result, Results } from "./results.ts"
import { bestOfKFigure } from "./run-figures.ts"
import { bestTemperatureFigure, maxAndMedianFigure } from "./tuning-figures.ts"

/** The policy whose samples a sweep compares. */
const sweptPolicy = (run: Results, sweep: Result): string => {
  const [scored] = run.inputs(sweep, "scored")
  return run.input(run.input(scored, "completions"), "policy")?.node ?? sweep.node
}

export const tuningChapters = Effect.fnUntraced(function* (run: Results) {
  const sweeps = (yield* run.reports(TemperatureSweepReport)).map((one) => ({ ...one, name: sweptPolicy(run, one) }))
  const last = sweeps.at(-1)?.content
  const chosen = yield* run.reports(BestOfNReport)
  const rejection: Section = {
    title: "Rejection sampling",
    figures: [
      ...(last === undefined ? [] : existing(maxAndMedianFigure(last), bestOfNFigure(last), bestTemperatureFigure(sweeps))),
      ...chosen.map(({ content }) => bestOfKFigure(content))
    ]
  }
  const diagnostics = yield* run.reports(PpoDiagnosticsReport)
  const ppo: Section = { title: "PPO", figures: diagnostics.map(({ content, node }) => ({ ...ppoFigure(content), part: node })) }
  return [rejection, ppo]
})
