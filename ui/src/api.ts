/** Requests to the server. Imports only types from cli/ui/api.ts, so the bundle contains none of its code. */
import { signal } from "@preact/signals"
import type {
  About,
  AnswersPart,
  Comparison,
  CurveLine,
  Lineage,
  LockState,
  LogPart,
  NodeView,
  ResultLine,
  RowsPart,
  RunLine,
  RunTable,
  RunView,
  TokensView
} from "../../cli/ui/api.ts"

interface Answers {
  readonly about: About
  readonly runs: { readonly runs: ReadonlyArray<RunLine>; readonly total: number }
  readonly run: RunView
  readonly node: NodeView
  readonly log: LogPart
  readonly curves: ReadonlyArray<CurveLine>
  readonly results: ReadonlyArray<ResultLine>
  readonly rows: RowsPart
  readonly answers: AnswersPart
  readonly tokens: TokensView
  readonly compare: Comparison
  readonly table: RunTable
  readonly lineage: Lineage
  readonly lock: LockState
}

export type Query = Readonly<Record<string, string | number | undefined>>

/** The server's refusal, in its own words. */
export class Refused extends Error {
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export const addressOf = (name: string, query: Query = {}): string => {
  const words = Object.entries(query).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${encodeURIComponent(value)}`]))
  return `/api/${name}${words.length === 0 ? "" : `?${words.join("&")}`}`
}

export const refusal = async (response: Response): Promise<Refused> => {
  const text = await response.text()
  let message = text
  try {
    const body = JSON.parse(text) as { readonly message?: unknown }
    if (typeof body.message === "string") message = body.message
  } catch {
    // The response is not from our server.
  }
  return new Refused(response.status, message === "" ? `The server responded with status ${response.status}.` : message)
}

const fetched = async (address: string, options?: RequestInit): Promise<Response> => {
  let response: Response
  try {
    response = await fetch(address, options)
  } catch {
    throw new Refused(0, "The server does not respond. It may have stopped: restart caravan ui on the same port, and this page continues.")
  }
  if (!response.ok) throw await refusal(response)
  return response
}

export const ask = async <Name extends keyof Answers>(name: Name, query?: Query, stop?: AbortSignal): Promise<Answers[Name]> =>
  (await (await fetched(addressOf(name, query), stop === undefined ? {} : { signal: stop })).json()) as Answers[Name]

export const askBytes = async (name: string, query: Query): Promise<ArrayBuffer> => (await fetched(addressOf(name, query))).arrayBuffer()

export const about = signal<About | undefined>(undefined)
