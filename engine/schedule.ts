/** Learning-rate schedules: functions of the step, counted from 0. */

export type Schedule = (step: number) => number

/** The same learning rate at every step. */
export const constantSchedule =
  (learningRate: number): Schedule =>
  () =>
    learningRate

/**
 * Linear warm-up to the peak over `warmup` steps (the rate at step 0 is above 0), then half a cosine down to `finalFraction` of the peak at `steps`
 * (Llama 2 §2.2: 10%). The last step that is trained is steps - 1, whose rate is slightly higher.
 */
export const cosineSchedule = (options: {
  readonly peak: number
  readonly steps: number
  readonly warmup?: number
  readonly finalFraction?: number
}): Schedule => {
  const { peak, steps, warmup = 0, finalFraction = 0.1 } = options
  return (step) => {
    if (step < warmup) return (peak * (step + 1)) / warmup
    const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
    return peak * (finalFraction + (1 - finalFraction) * 0.5 * (1 + Math.cos(Math.PI * progress)))
  }
}
