/** What PPO leaves beside its checkpoint: `ppo.json`, its diagnostics iteration by iteration. Sorted keys, no times. */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ArtifactError } from "../../schemas/artifact.ts"

export const recordFile = "ppo.json"

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

const sortKeys = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

/** Writes the record into a checkpoint's folder. */
export const writeRecord = (folder: string, record: PpoDiagnostics): Effect.Effect<void> =>
  Effect.flatMap(Schema.encodeUnknownEffect(PpoDiagnostics)(record).pipe(Effect.orDie), (encoded) =>
    Effect.promise(() => writeFile(join(folder, recordFile), `${JSON.stringify(encoded, sortKeys, 2)}\n`))
  )

/** Reads it back. Fails when the checkpoint was not made by PPO. */
export const readRecord = (folder: string): Effect.Effect<PpoDiagnostics, ArtifactError> =>
  Effect.gen(function* () {
    const path = join(folder, recordFile)
    const fail = (found: string) =>
      ArtifactError.of({
        doing: `Reading PPO's diagnostics ${path}`,
        expected: `a ${recordFile} as the stage ppo writes it`,
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
