/**
 * PPO's diagnostics, iteration by iteration (Llama 2 §3.2.3): the stage ppo leaves them beside its checkpoint, as `ppo.json` with sorted keys and no
 * times, and the stage ppo-diagnostics makes a report of them.
 */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { report } from "../../schemas/report.ts"
import { mean } from "../common/statistics.ts"
import type { Response, ResponseReward } from "./rollouts.ts"
import type { ExperienceStatistics, StepStatistics } from "./trainer.ts"

const fileName = "ppo.json"

export const PpoSample = Schema.Struct({
  promptId: Schema.String,
  /** The last question. */
  prompt: Schema.String,
  response: Schema.String,
  finished: Schema.Boolean,
  reward: Schema.Finite,
  helpfulness: Schema.NullOr(Schema.Finite),
  safety: Schema.NullOr(Schema.Finite)
})

/** Rewards of a policy's responses. */
const rewards = {
  /** Mean of logit(R_c), before whitening. */
  reward: Schema.Finite,
  /** Means of R_h and R_s in (0, 1); null where there is none. */
  helpfulness: Schema.NullOr(Schema.Finite),
  safety: Schema.NullOr(Schema.Finite),
  /** Mean tokens a response, the end-of-sequence token included. */
  responseLength: Schema.Finite,
  /** Share of responses cut off before the end-of-sequence token. */
  withoutEos: Schema.Finite,
  /** Share of responses that no reward model could read: empty, or with the chat format's tags. */
  unreadable: Schema.Finite
}

export const PpoIteration = Schema.Struct({
  /** From 1. */
  iteration: Schema.Finite,
  ...rewards,
  /** KL to the reference in nats by the configured estimator: mean over responses, and over tokens. */
  kl: Schema.Finite,
  klPerToken: Schema.Finite,
  beta: Schema.Finite,
  /** Of the value model before the iteration's steps. */
  explainedVariance: Schema.Finite,
  /** Means over the iteration's gradient steps. */
  policyLoss: Schema.Finite,
  valueLoss: Schema.Finite,
  entropy: Schema.Finite,
  clipFraction: Schema.Finite,
  approximateKl: Schema.Finite,
  /** KL(old || new) of the first mini-batch, before any step: how far sampling's log-probabilities are from the update's. */
  mismatchKl: Schema.Finite,
  policyGradientNorm: Schema.Finite,
  valueGradientNorm: Schema.Finite,
  samples: Schema.Array(PpoSample)
})
export type PpoIteration = typeof PpoIteration.Type

/** On the held-out prompts, after so many iterations (0: the policy that PPO started from). */
export const PpoEvaluation = Schema.Struct({ iteration: Schema.Finite, ...rewards })
export type PpoEvaluation = typeof PpoEvaluation.Type

export const PpoDiagnostics = Schema.Struct({
  iterations: Schema.Array(PpoIteration),
  /** Empty without held-out prompts. */
  heldOut: Schema.Array(PpoEvaluation),
  /** After how many iterations the policy was that is kept. */
  kept: Schema.Finite,
  /** Why it ended. */
  stopped: Schema.Literals(["iterations", "early-stopping", "diverged"]),
  /** Where and how it diverged. */
  divergence: Schema.NullOr(Schema.String),
  /** Prompts left out because they are longer than the context. */
  promptsTooLong: Schema.Finite,
  helpfulnessOnly: Schema.Boolean
})
export type PpoDiagnostics = typeof PpoDiagnostics.Type

/** What an iteration did. */
export const describeIteration = (done: {
  readonly iteration: number
  readonly responses: ReadonlyArray<Response>
  readonly rewards: ReadonlyArray<ResponseReward>
  readonly statistics: ExperienceStatistics
  readonly steps: ReadonlyArray<StepStatistics>
  readonly sampleTexts: number
}): PpoIteration => {
  const { iteration, responses, rewards, statistics, steps, sampleTexts } = done
  const average = (field: Exclude<keyof StepStatistics, "diverged">) => mean(steps.map((step) => step[field]))
  return {
    iteration,
    ...describeResponses(responses, rewards),
    ...statistics,
    policyLoss: average("policyLoss"),
    valueLoss: average("valueLoss"),
    entropy: average("entropy"),
    clipFraction: average("clipFraction"),
    approximateKl: average("approximateKl"),
    mismatchKl: steps[0]!.approximateKl,
    policyGradientNorm: average("policyGradientNorm"),
    valueGradientNorm: average("valueGradientNorm"),
    samples: responses.slice(0, sampleTexts).map(({ prompt, text, finished }, i) => ({
      promptId: prompt.id,
      prompt: prompt.messages.at(-1)!.content,
      response: text,
      finished,
      ...rewards[i]!
    }))
  }
}

/** Means over responses and their rewards. */
export const describeResponses = (
  responses: ReadonlyArray<Response>,
  rewards: ReadonlyArray<ResponseReward>
): Omit<PpoEvaluation, "iteration"> => {
  const meanOf = (kind: "helpfulness" | "safety"): number | null => {
    const scores = rewards.map((reward) => reward[kind]).filter((score) => score !== null)
    return scores.length === 0 ? null : mean(scores)
  }
  return {
    reward: mean(rewards.map(({ reward }) => reward)),
    helpfulness: meanOf("helpfulness"),
    safety: meanOf("safety"),
    responseLength: mean(responses.map(({ tokens }) => tokens.length)),
    withoutEos: mean(responses.map(({ finished }) => (finished ? 0 : 1))),
    unreadable: mean(rewards.map(({ helpfulness }) => (helpfulness === null ? 1 : 0)))
  }
}

const sortKeys = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

/** Writes the diagnostics into a checkpoint's folder. */
export const writeDiagnostics = (folder: string, diagnostics: PpoDiagnostics): Effect.Effect<void> =>
  Effect.flatMap(Schema.encodeUnknownEffect(PpoDiagnostics)(diagnostics).pipe(Effect.orDie), (encoded) =>
    Effect.promise(() => writeFile(join(folder, fileName), `${JSON.stringify(encoded, sortKeys, 2)}\n`))
  )

/** Reads them back. Fails when the checkpoint was not made by PPO. */
export const readDiagnostics = (folder: string): Effect.Effect<PpoDiagnostics, ArtifactError> =>
  Effect.gen(function* () {
    const path = join(folder, fileName)
    const fail = (found: string) =>
      ArtifactError.of({
        doing: `Reading PPO's diagnostics ${path}`,
        expected: `a ${fileName} as the stage ppo writes it`,
        found,
        hint: "Give the checkpoint that ppo made; others have no such file."
      })
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => fail((cause as NodeJS.ErrnoException).code === "ENOENT" ? "no such file" : String(cause))
    })
    const json = yield* Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => fail(String(cause)) })
    return yield* Schema.decodeUnknownEffect(PpoDiagnostics)(json).pipe(Effect.mapError((error) => fail(error.message)))
  })

export const PpoDiagnosticsReport = report(PpoDiagnostics, "ppo-diagnostics/1")

export const ppoDiagnostics = Stage.make("ppo-diagnostics", {
  description: "§3.2.3 PPO's rewards, KL, losses and sample texts by iteration, read out of its checkpoint",
  config: Schema.Struct({}),
  inputs: { policy: Policy },
  output: PpoDiagnosticsReport,
  seeded: false,
  run: Effect.fn("ppo-diagnostics")(function* ({ inputs, output }) {
    return yield* writeReport(output, yield* readDiagnostics(inputs.policy.path))
  })
})
