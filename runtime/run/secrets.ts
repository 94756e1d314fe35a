/** Keeps a stage's secrets private: removes them from everything it reports or prints. */
import * as Effect from "effect/Effect"
import { hyperInfo } from "../../schemas/hyper.ts"
import { redact, redactPieces } from "../../schemas/secrets.ts"
import type { Progress, StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import type { Execute } from "./execute.ts"

/** The values of the environment variables that a stage's config marks as secrets. */
const secretsOf = (stage: StageInfo, config: Readonly<Record<string, unknown>>): ReadonlyArray<string> =>
  Object.entries(stage.config.fields as Readonly<Record<string, object>>).flatMap(([name, field]) => {
    if (hyperInfo(field)?.namesSecret !== true || !Object.hasOwn(config, name)) return []
    return process.env[String(config[name])] ?? []
  })

/** Like `execute`, but removes the stage's secrets from errors, progress, notes and output. */
export const withoutSecrets =
  (execute: Execute): Execute =>
  (work) => {
    const secrets = secretsOf(work.stage, work.job.config)
    if (secrets.length === 0) return execute(work)
    const { onProgress, onOutput } = work
    const output = redactPieces(secrets)
    const say = (text: string) => {
      if (text !== "") onOutput?.(text)
    }
    return execute({
      ...work,
      onProgress: (progress) =>
        onProgress(
          Object.fromEntries(
            Object.entries(progress).map(([name, value]) => [name, typeof value === "string" ? redact(value, secrets) : value])
          ) as Progress
        ),
      onOutput: (text) => say(output.add(text))
    }).pipe(
      Effect.mapError(({ isRetryable, message, reason }) => new StageError({ reason, message: redact(message, secrets), isRetryable })),
      Effect.ensuring(Effect.sync(() => say(output.end())))
    )
  }
