/**
 * Requests to the Hub. Redirects are followed manually, because files are on other hosts, which must never receive the token. Transient failures (no
 * connection, an interruption, a busy server) are `TransientError` and retried by `persist`; all other failures are errors that can be shown.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { PipelineError, StoreError } from "../errors.ts"
import type { HubSettings } from "./settings.ts"

/** A transient failure. */
export class TransientError extends Error {
  /** Milliseconds that the server asks to wait. */
  readonly after: number | undefined
  constructor(message: string, after?: number) {
    super(message)
    this.after = after
  }
}

export interface Asked {
  readonly url: string
  /** What is being done, for errors: "Looking up hf:owner/name@main". */
  readonly doing: string
  readonly headers?: Readonly<Record<string, string>>
  readonly signal: AbortSignal | undefined
  /** Statuses other than 2xx that the caller handles. */
  readonly accept?: ReadonlyArray<number>
  /** What to check if the repository does not exist. */
  readonly hint?: string
}

/** The response's status and headers, and its body as a stream. */
export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly chunks: AsyncIterable<Uint8Array>
}

const redirects = new Set([301, 302, 303, 307, 308])
const maxRedirects = 5

/** The reason of a failed fetch, without the URL: a file host's URL contains a signature. */
const reasonOf = (cause: unknown): string => {
  const inner = (cause as { readonly cause?: unknown }).cause ?? cause
  const { code, message } = inner as { readonly code?: unknown; readonly message?: unknown }
  return [message, code].filter((part) => typeof part === "string" && part !== "").join(", ") || String(inner)
}

/**
 * GETs a URL and passes the response to `read`. Throws TransientError, PipelineError or StoreError, or the error of `read`; the signal's reason if it is
 * aborted.
 */
export const request = async <A>(settings: HubSettings, asked: Asked, read: (answer: Answer) => Promise<A>): Promise<A> => {
  const { doing, signal } = asked
  const idle = new AbortController()
  const timer = setTimeout(() => idle.abort(new Error(`no data for ${settings.patience / 1000} s`)), settings.patience)
  const passing = (cause: unknown, host: string): unknown => {
    if (signal?.aborted === true) return signal.reason
    return new TransientError(`${doing}: ${reasonOf(idle.signal.aborted ? idle.signal.reason : cause)} (${host}).`)
  }
  try {
    let url = new URL(asked.url)
    const { origin } = url
    for (let hop = 0; hop <= maxRedirects; hop++) {
      const token = url.origin === origin ? settings.token() : undefined
      const response = await fetch(url, {
        redirect: "manual",
        signal: signal === undefined ? idle.signal : AbortSignal.any([signal, idle.signal]),
        headers: {
          // Ranges can't be requested from a compressed response.
          ...{ "accept-encoding": "identity", "user-agent": "caravan", ...asked.headers },
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` })
        }
      }).catch((cause: unknown) => {
        throw passing(cause, url.host)
      })
      timer.refresh()
      if (redirects.has(response.status)) {
        await response.body?.cancel()
        url = redirected(response.headers.get("location"), url, doing)
        continue
      }
      if (!response.ok && asked.accept?.includes(response.status) !== true) {
        const said = await textOf(response.body ?? [], 1 << 16).catch(() => "")
        // The Hub returns another URL next time.
        if (url.origin !== origin)
          throw new TransientError(`${doing}: the host of the file, ${url.host}, responded with ${response.status}.`)
        throw refusal(settings, asked, response, said)
      }
      const { body, headers, status } = response
      const chunks = async function* (): AsyncGenerator<Uint8Array> {
        try {
          for await (const chunk of body ?? []) {
            timer.refresh()
            yield chunk
          }
        } catch (cause) {
          throw passing(cause, url.host)
        }
      }
      try {
        return await read({ status, headers, chunks: chunks() })
      } finally {
        await body?.cancel().catch(() => undefined)
      }
    }
    throw new StoreError({ message: `${doing}: ${settings.endpoint} redirects endlessly. Check HF_ENDPOINT.` })
  } finally {
    clearTimeout(timer)
  }
}

const redirected = (location: string | null, from: URL, doing: string): URL => {
  const url = location !== null && URL.canParse(location, from.href) ? new URL(location, from) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || (from.protocol === "https:" && url.protocol !== "https:"))
    throw new StoreError({
      message: `${doing}: ${from.host} redirects to ${url === undefined ? "no address" : `${url.protocol}//${url.host}`}, which is not an allowed address for files. Check HF_ENDPOINT.`
    })
  return url
}

/** A body as text; more than `most` bytes are an error. */
export const textOf = async (chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, most: number): Promise<string> => {
  const parts: Array<Uint8Array> = []
  let size = 0
  for await (const chunk of chunks) {
    size += chunk.length
    if (size > most) throw new StoreError({ message: `The Hub's response is longer than ${most} bytes. Check HF_ENDPOINT.` })
    parts.push(chunk)
  }
  return Buffer.concat(parts).toString("utf8")
}

/** The meaning of a response other than 2xx. The Hub names the case in a header; compatible servers (mirrors) only have the status. */
const refusal = (settings: HubSettings, { doing, hint, url }: Asked, { headers, status }: Response, body: string): Error => {
  const hasToken = settings.token() !== undefined
  const said = (headers.get("x-error-message") ?? messageIn(body)).replaceAll(/\s+/g, " ").trim().slice(0, 200)
  const told = said === "" ? String(status) : `${status}: ${said}`
  const fail = (message: string) => new PipelineError({ message: `${doing}: ${message}` })
  if (status === 408 || status === 429 || status >= 500) {
    const seconds = Number(headers.get("retry-after") ?? "")
    return new TransientError(
      `${doing}: the server is busy or unavailable (${told}).`,
      seconds > 0 ? Math.min(seconds, 120) * 1000 : undefined
    )
  }
  switch (headers.get("x-error-code")) {
    case "RevisionNotFound":
      return fail(`the repository has no such branch, tag or commit (${told}). Check the revision after the @.`)
    case "EntryNotFound":
      return fail(`the repository has no such file (${told}). Check the path after the repository's name.`)
    case "GatedRepo":
      return fail(
        `the repository is gated (${told}). Request access on its page at ${new URL(url).origin}, and ${hasToken ? "wait until it is granted; the token must belong to that account" : "set HF_TOKEN to a token of that account"}.`
      )
    default:
  }
  if (status === 401 && hasToken && /invalid|credential|token/i.test(said))
    return fail(`the Hub does not accept the token (${told}). Check HF_TOKEN, or log in again (hf auth login).`)
  if (status === 401 || status === 404)
    return fail(
      `the repository does not exist, or it is private and ${hasToken ? "the token has no access" : "no token is set (HF_TOKEN)"} (${told}). Check the name.${hint ?? ""}`
    )
  if (status === 403) return fail(`access is refused (${told}). Check the token's permissions.`)
  return fail(`the server refused the request (${told}). Check HF_ENDPOINT.`)
}

const messageIn = (body: string): string => {
  try {
    const { error } = JSON.parse(body) as { readonly error?: unknown }
    return typeof error === "string" ? error : ""
  } catch {
    return ""
  }
}

/** Retries transient failures as often as `waits` has entries; starts over when `advanced` reports progress. */
export const persist = async <A>(
  waits: ReadonlyArray<number>,
  signal: AbortSignal | undefined,
  attempt: () => Promise<A>,
  { advanced = () => false, after = "" }: { readonly advanced?: () => boolean; readonly after?: string } = {}
): Promise<A> => {
  for (let failures = 0; ; failures++) {
    try {
      return await attempt()
    } catch (cause) {
      if (!(cause instanceof TransientError)) throw cause
      if (advanced()) failures = 0
      if (failures >= waits.length)
        throw new StoreError({ message: `${cause.message} Tried ${failures + 1} times. Check the network and HF_ENDPOINT${after}.` })
      await sleep(cause.after ?? waits[failures]!, undefined, { ...(signal && { signal }) })
    }
  }
}
