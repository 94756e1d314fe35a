/** Explanations of the symbols in a report, for the first section that contains one of them. */

const ofSigma = "sigma(x) = 1 / (1 + exp(-x))"

/** The meanings of all symbols in the texts, each once, and the index of the first text with a symbol; undefined if there are none. */
export const notationOf = (texts: ReadonlyArray<string>): { readonly first: number; readonly text: string } | undefined => {
  const has = (symbol: RegExp) => texts.some((text) => symbol.test(text))
  const hasSafety = has(/\bR_s\b/)
  const hasScores = hasSafety || has(/\bR_h\b/)
  const meanings: ReadonlyArray<readonly [symbol: RegExp, meaning: string]> = [
    [
      /\bR_[hs]\b/,
      hasSafety
        ? `R_h and R_s are the scores of the helpfulness and the safety reward model, from 0 to 1: sigma of the model's output, where ${ofSigma}.`
        : `R_h is the score of the helpfulness reward model, from 0 to 1: sigma of the model's output, where ${ofSigma}.`
    ],
    [/\bsigma\b/, hasScores ? "" : `${ofSigma}, from 0 to 1.`],
    [
      /\bR_c\b/,
      hasSafety
        ? "R_c is the combined score (§3.2.3): R_s for safety prompts and for answers whose R_s is below a threshold (0.15 in the paper), R_h for all others."
        : "R_c is the score that tuning maximises; with one reward model, it is that model's score."
    ],
    [/\blogit\b/, "logit(p) = ln(p / (1 - p))."],
    [/\bKL\b/, "KL is the Kullback-Leibler divergence of a tuned policy from its reference."]
  ]
  const used = meanings.filter(([symbol]) => has(symbol))
  if (used.length === 0) return undefined
  return {
    first: texts.findIndex((text) => used.some(([symbol]) => symbol.test(text))),
    text: used.flatMap(([, meaning]) => (meaning === "" ? [] : [meaning])).join(" ")
  }
}
