/**
 * PPO's diagnostics by iteration (Llama 2 §3.2.3). The stage ppo stores them with its checkpoint as `ppo.json`, with sorted keys and without
 * times; the stage ppo-diagnostics turns them into a report.
 */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { report, sortedJson } from "../../schemas/report.ts"
import { mean } from "../common/statistics.ts"
import type { Response, ResponseReward } from "./rollouts.ts"
import { schemaIssues } from "../../schemas/schema-issues.ts"

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

/** Statistics of a policy's responses and their rewards. */
const rewards = {
  /** Mean of logit(R_c), before whitening. */
  reward: Schema.Finite,
  /** Means of R_h and R_s in (0, 1); null without that model. */
  helpfulness: Schema.NullOr(Schema.Finite),
  safety: Schema.NullOr(Schema.Finite),
  /** Mean number of tokens per response, including the end-of-sequence token. */
  responseLength: Schema.Finite,
  /** Share of responses truncated before the end-of-sequence token. */
  withoutEos: Schema.Finite,
  /** Share of responses that no reward model could read: empty, or with tags of the chat format. */
  unreadable: Schema.Finite
}

/** Fields of an iteration, for any method. */
export const iterationFields = {
  /** From 1. */
  iteration: Schema.Finite,
  ...rewards,
  /** KL to the reference in nats with the configured estimator: mean over responses, and over tokens. */
  kl: Schema.Finite,
  klPerToken: Schema.Finite,
  /** Means over the iteration's gradient steps. */
  policyLoss: Schema.Finite,
  entropy: Schema.Finite,
  clipFraction: Schema.Finite,
  approximateKl: Schema.Finite,
  /** KL(old || new) of the first mini-batch, before any step: the difference between the log-probabilities of sampling and of the update. */
  mismatchKl: Schema.Finite,
  policyGradientNorm: Schema.Finite,
  samples: Schema.Array(PpoSample)
}
const valueFields = {
  beta: Schema.Finite,
  /** Of the value model, before the iteration's steps. */
  explainedVariance: Schema.Finite,
  valueLoss: Schema.Finite,
  valueGradientNorm: Schema.Finite
}

export const PpoIteration = Schema.Struct({ ...iterationFields, ...valueFields })
export type PpoIteration = typeof PpoIteration.Type

/** Evaluation on the held-out prompts after this many iterations (0: the initial policy). */
export const PpoEvaluation = Schema.Struct({ iteration: Schema.Finite, ...rewards })
export type PpoEvaluation = typeof PpoEvaluation.Type

/** Fields besides the iterations. */
export const diagnosticsFields = {
  /** Empty without held-out prompts. */
  heldOut: Schema.Array(PpoEvaluation),
  /** Number of iterations after which the kept policy was obtained. */
  kept: Schema.Finite,
  /** Why training ended. */
  stopped: Schema.Literals(["iterations", "early-stopping", "diverged"]),
  /** Where and how training diverged. */
  divergence: Schema.NullOr(Schema.String),
  /** Number of prompts left out because they are too long for the context. */
  promptsTooLong: Schema.Finite,
  helpfulnessOnly: Schema.Boolean
}
export const PpoDiagnostics = Schema.Struct({ iterations: Schema.Array(PpoIteration), ...diagnosticsFields })
export type PpoDiagnostics = typeof PpoDiagnostics.Type

/** Numbers of a gradient step, averaged in the diagnostics. */
export interface StepNumbers {
  readonly policyLoss: number
  readonly approximateKl: number
  readonly diverged: boolean
}
type Means<Step> = { readonly [K in Exclude<keyof Step, "diverged">]: number }
/** The diagnostics of an iteration, for a method whose trainer returns these statistics and step numbers. */
export type IterationOf<Statistics extends object, Step extends StepNumbers> = PpoEvaluation &
  Statistics &
  Means<Step> & { readonly mismatchKl: number; readonly samples: ReadonlyArray<typeof PpoSample.Type> }

/** Summarises an iteration. */
export const describeIteration = <Statistics extends object, Step extends StepNumbers>(done: {
  readonly iteration: number
  readonly responses: ReadonlyArray<Response>
  readonly rewards: ReadonlyArray<ResponseReward>
  readonly statistics: Statistics
  readonly steps: ReadonlyArray<Step>
  readonly sampleTexts: number
}): IterationOf<Statistics, Step> => {
  const { iteration, responses, rewards, statistics, steps, sampleTexts } = done
  const names = Object.keys(steps[0]!).filter((name) => name !== "diverged") as Array<Exclude<keyof Step, "diverged">>
  const means = Object.fromEntries(names.map((name) => [name, mean(steps.map((step) => step[name] as number))])) as Means<Step>
  return {
    iteration,
    ...describeResponses(responses, rewards),
    ...statistics,
    ...means,
    mismatchKl: steps[0]!.approximateKl,
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

/** Writes and reads a method's diagnostics as a file in a checkpoint's folder. Reading fails if another method made the checkpoint. */
export const diagnosticsFile = <A>(schema: Schema.Codec<A, any>, fileName: string, stages: string) => ({
  write: (folder: string, diagnostics: A): Effect.Effect<void> =>
    Effect.flatMap(Schema.encodeUnknownEffect(schema)(diagnostics).pipe(Effect.orDie), (encoded) =>
      Effect.promise(() => writeFile(join(folder, fileName), sortedJson(encoded)))
    ),
  read: (folder: string): Effect.Effect<A, ArtifactError> =>
    Effect.gen(function* () {
      const path = join(folder, fileName)
      const fail = (found: string) =>
        ArtifactError.of({
          doing: `Reading the diagnostics ${path}`,
          expected: `a ${fileName} written by ${stages}`,
          found,
          hint: `Pass a checkpoint made by ${stages}; other checkpoints do not have this file.`
        })
      const text = yield* Effect.tryPromise({
        try: () => readFile(path, "utf8"),
        catch: (cause) => fail((cause as NodeJS.ErrnoException).code === "ENOENT" ? "no such file" : String(cause))
      })
      const json = yield* Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => fail(String(cause)) })
      return yield* Schema.decodeUnknownEffect(schema)(json).pipe(Effect.mapError((error) => fail(schemaIssues(error.message))))
    })
})

export const ppoDiagnosticsFile = diagnosticsFile(PpoDiagnostics, "ppo.json", "ppo")
export const readDiagnostics = ppoDiagnosticsFile.read

export const PpoDiagnosticsReport = report(PpoDiagnostics, "ppo-diagnostics/1")

export const ppoDiagnostics = Stage.make("ppo-diagnostics", {
  description: "§3.2.3 PPO's rewards, KL, losses and sample texts by iteration, read from its checkpoint",
  config: Schema.Struct({}),
  inputs: { policy: Policy },
  output: PpoDiagnosticsReport,
  seeded: false,
  run: Effect.fn("ppo-diagnostics")(function* ({ inputs, output }) {
    return yield* writeReport(output, yield* readDiagnostics(inputs.policy.path))
  })
})
