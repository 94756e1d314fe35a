/** The server of `caravan ui` for a test: in this process, on the store of a folder. */
import { request } from "node:http"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Context from "effect/Context"
import { HttpServer } from "effect/http"
import type { LiveEvent } from "../../../cli/ui/api.ts"
import { serveUi, type UiOptions } from "../../../cli/ui/server.ts"

export interface Served {
  readonly port: number
  readonly url: string
  readonly get: (path: string, headers?: Readonly<Record<string, string>>) => Promise<Answer>
  readonly post: (path: string, body: unknown, headers?: Readonly<Record<string, string>>) => Promise<Answer>
  readonly close: () => Promise<void>
}
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  readonly body: Buffer
  readonly json: any
}

const text = (value: string) => ({ bytes: Buffer.from(value), type: "text/html; charset=utf-8" })

export const serve = async (home: string, more: Partial<UiOptions> = {}): Promise<Served> => {
  const scope = Scope.makeUnsafe()
  const page = new Map([
    ["/", text("<!doctype html>")],
    ["/assets/a.js", { bytes: Buffer.from("1"), type: "text/javascript; charset=utf-8" }]
  ])
  const context = await Effect.runPromise(Layer.buildWithScope(serveUi({ home, port: 0, version: "0.0.0", page, ...more }), scope))
  const { address } = Context.get(context, HttpServer.HttpServer)
  const port = "port" in address ? address.port : 0
  // Not fetch, which sets Host and does not allow overriding it.
  const ask = (method: string, path: string, headers: Readonly<Record<string, string>>, body?: string) =>
    new Promise<Answer>((resolve, reject) => {
      const asked = request({ host: "127.0.0.1", port, path, method, headers, agent: false }, (response) => {
        const chunks: Array<Buffer> = []
        response.on("data", (chunk: Buffer) => chunks.push(chunk))
        response.on("end", () => {
          const body = Buffer.concat(chunks)
          const isJson = response.headers["content-type"]?.includes("json") === true && body.length > 0
          resolve({ status: response.statusCode!, headers: response.headers, body, json: isJson ? JSON.parse(body.toString()) : undefined })
        })
      })
      asked.on("error", reject)
      asked.end(body)
    })
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    get: (path, headers = {}) => ask("GET", path, headers),
    post: (path, body, headers = {}) => ask("POST", path, { "content-type": "application/json", ...headers }, JSON.stringify(body)),
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

/** Events of the stream until one of them is the expected one, or the given milliseconds have passed. */
export const eventsUntil = async (
  url: string,
  isLast: (event: LiveEvent) => boolean,
  milliseconds = 60_000
): Promise<ReadonlyArray<LiveEvent>> => {
  const stop = new AbortController()
  const timer = setTimeout(() => stop.abort(new Error("no such event came")), milliseconds)
  const events: Array<LiveEvent> = []
  try {
    const response = await fetch(url, { signal: stop.signal })
    let buffered = ""
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      buffered += chunk
      for (let end = buffered.indexOf("\n\n"); end !== -1; end = buffered.indexOf("\n\n")) {
        const data = /^data: (.*)$/m.exec(buffered.slice(0, end))?.[1]
        buffered = buffered.slice(end + 2)
        if (data === undefined) continue
        events.push(JSON.parse(data) as LiveEvent)
        if (isLast(events.at(-1)!)) return events
      }
    }
    throw new Error(`the stream ended after ${JSON.stringify(events).slice(0, 400)}`)
  } finally {
    clearTimeout(timer)
    stop.abort()
  }
}
