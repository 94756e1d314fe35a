/** Calls a model behind an OpenAI-compatible endpoint: one question, one text answer, with retries for transient failures. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

export interface Endpoint {
  /** For example https://host/v1; `/chat/completions` is appended. */
  readonly url: string
  readonly model: string
  /** Sent as a bearer token; undefined: no token is sent. */
  readonly key: string | undefined
  /** Maximum duration of a request in seconds. */
  readonly timeout: number
  /** Milliseconds before the first of four retries; doubles with each retry. 1000 by default. */
  readonly firstRetry?: number | undefined
}

export class RequestFailed extends Error {
  readonly isRetryable: boolean
  constructor(message: string, isRetryable: boolean) {
    super(message)
    this.isRetryable = isRetryable
  }
}

/** The answer at temperature 0; empty if the endpoint returns none. */
export const askEndpoint = ({ firstRetry, key, model, timeout, url }: Endpoint, question: string): Effect.Effect<string, RequestFailed> =>
  Effect.tryPromise({
    try: async () => {
      const response = await fetch(`${url.replace(/\/$/, "")}/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) },
        body: JSON.stringify({ model, temperature: 0, messages: [{ role: "user", content: question }] }),
        signal: AbortSignal.timeout(timeout * 1000)
      })
      if (!response.ok)
        throw new RequestFailed(`it answered ${response.status} ${response.statusText}`, response.status === 429 || response.status >= 500)
      const text = await response.text()
      let body: { choices?: ReadonlyArray<{ message?: { content?: unknown } }> } | null
      try {
        body = JSON.parse(text) as typeof body
      } catch {
        // JSON.parse quotes the text in its error, which might contain part of the key.
        throw new RequestFailed("its answer is not JSON (is this the URL of an OpenAI-compatible endpoint?)", false)
      }
      const content = body?.choices?.[0]?.message?.content
      return typeof content === "string" ? content : ""
    },
    catch: (cause) =>
      cause instanceof RequestFailed
        ? cause
        : cause instanceof Error && cause.name === "TimeoutError"
          ? new RequestFailed(`it gave no answer within ${timeout} seconds (raise timeout if it needs longer)`, true)
          : new RequestFailed(
              cause instanceof Error ? `${cause.message}${cause.cause instanceof Error ? ` (${cause.cause.message})` : ""}` : String(cause),
              true
            )
  }).pipe(
    Effect.retry({
      schedule: Schedule.exponential(firstRetry ?? 1000),
      times: 4,
      while: (error) => error.isRetryable
    })
  )

/** Why an endpoint cannot be used: a missing setting or an invalid URL; undefined if it can. */
export const endpointFault = (
  { keyVariable, model, url }: { readonly url: string; readonly model: string; readonly keyVariable: string },
  environment: Readonly<Record<string, string | undefined>>
): string | undefined => {
  if (url === "" || model === "") return "A judge needs an endpoint: set url (for example https://host/v1) and model."
  if (!/^https?:$/.test(URL.parse(url)?.protocol ?? ""))
    return `The judge's url is ${JSON.stringify(url)}: expected a URL such as https://host/v1. Correct it and run again.`
  if (keyVariable !== "" && (environment[keyVariable] ?? "") === "")
    return `The judge's key is read from the environment variable ${keyVariable}, which is not set. Set it and run again.`
  return undefined
}
