/** The page's server: listens on loopback and reads the journal, logs and store of one folder; writes nothing unless control is allowed. */
import { randomUUID } from "node:crypto"
import { createServer } from "node:http"
import { NodeHttpServer } from "@effect/platform-node"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { HttpApiBuilder, HttpApiMiddleware } from "effect/http-api"
import { messageOf } from "../../runtime/errors.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { storeAt } from "../open-store.ts"
import { Api, BadRequest, Broken, Conflict, Forbidden, NotFound, Unfit } from "./api.ts"
import { beginAgain, setNote, setPin, stopRun } from "./control.ts"
import { finishLabels, keepLabel, labelTasks, labelView } from "./labels.ts"
import { curveBytes, curveLines } from "./curve.ts"
import { isToken, objectionTo, safeHeaders } from "./guard.ts"
import { liveEvents, Watches } from "./live.ts"
import { logPart, nodeView } from "./node.ts"
import type { PageFile } from "./page-files.ts"
import { answersPart } from "./answers.ts"
import { comparison } from "./comparison.ts"
import { figureOf } from "./figures.ts"
import { lineageOf, lockState } from "./origins.ts"
import { runTable } from "./run-table.ts"
import { resultLines, rowsPart } from "./rows.ts"
import { tokensView } from "./tokens.ts"
import { runView } from "./run-view.ts"
import { runLines } from "./runs.ts"

export interface UiOptions {
  readonly home: string
  /** 0: any free port. */
  readonly port: number
  readonly version: string
  readonly page: ReadonlyMap<string, PageFile>
  /** The token that allows control actions; undefined: nobody may use them. */
  readonly token?: string | undefined
}

type ApiError = BadRequest | Broken | Conflict | Forbidden | NotFound
const isApiError = (error: unknown): error is ApiError =>
  [BadRequest, Broken, Conflict, Forbidden, NotFound].some((kind) => error instanceof kind)

/** Converts errors into readable responses without stack traces. */
const answering = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, any, R> =>
  Effect.catchCause(effect, (cause) => {
    const error = Cause.squash(cause)
    if (Cause.hasInterruptsOnly(cause)) return Effect.failCause(cause as Cause.Cause<never>)
    return Effect.fail(isApiError(error) ? error : new Broken({ message: messageOf(error) }))
  })

const maxRuns = 500

const looking = (options: UiOptions, server: string) =>
  HttpApiBuilder.group(Api, "looking", (handlers) =>
    Effect.gen(function* () {
      const watches = new Watches(options.home)
      const services = yield* Effect.context<Journal | Store>()
      const given = <A, E>(effect: Effect.Effect<A, E, Journal | Store>) => answering(Effect.provide(effect, services))
      const about = { version: options.version, home: options.home, control: options.token !== undefined, server }
      return handlers
        .handle("about", () => Effect.succeed(about))
        .handle("runs", ({ query }) => given(runLines(query.search ?? "", Math.min(query.limit ?? 100, maxRuns), query.from ?? 0)))
        .handle("run", ({ query }) => given(runView(query.run)))
        .handle("node", ({ query }) => given(nodeView(query.run, query.node)))
        .handle("log", ({ query }) => given(logPart(query.run, query.node, query.from)))
        .handle("curves", ({ query }) => given(curveLines(query.run)))
        .handle("curve", ({ query }) =>
          given(Effect.map(curveBytes(query.run, query.node, query.from ?? 0), (bytes) => Stream.succeed(bytes)))
        )
        .handle("watch", ({ query }) =>
          Effect.succeed(
            liveEvents(watches, { type: "hello", server, version: options.version }, query.run).pipe(Stream.provideContext(services))
          )
        )
    })
  )

const reading = HttpApiBuilder.group(Api, "reading", (handlers) =>
  Effect.gen(function* () {
    const services = yield* Effect.context<Journal | Store>()
    const given = <A, E>(effect: Effect.Effect<A, E, Journal | Store>) => answering(Effect.provide(effect, services))
    return handlers
      .handle("results", ({ query }) => given(resultLines(query.run)))
      .handle("rows", ({ query }) => given(rowsPart(query.digest, query.from ?? 0, query.limit ?? 50, query.search ?? "")))
      .handle("answers", ({ query }) => given(answersPart(query)))
      .handle("tokens", ({ query }) => given(tokensView(query)))
  })
)

const comparing = HttpApiBuilder.group(Api, "comparing", (handlers) =>
  Effect.gen(function* () {
    const services = yield* Effect.context<Journal | Store>()
    const given = <A, E>(effect: Effect.Effect<A, E, Journal | Store>) => answering(Effect.provide(effect, services))
    return handlers
      .handle("compare", ({ query }) => given(comparison(query.before, query.after)))
      .handle("table", ({ query }) => given(runTable(query.runs)))
      .handle("lineage", ({ query }) => given(lineageOf(query.digest)))
      .handle("lock", ({ query }) => given(lockState(query.run)))
      .handle("figure", ({ query }) => given(Effect.map(figureOf(query.digest, query.index), (bytes) => Stream.succeed(bytes))))
  })
)

/** Whether the client may change things. */
const permit = (token: string | undefined, headers: { readonly "x-caravan-token"?: string | undefined }) =>
  token === undefined
    ? Effect.fail(
        new Forbidden({
          message: "This page is read-only. Start it with caravan ui --allow-control to stop and resume runs, pin, add notes and label."
        })
      )
    : isToken(headers["x-caravan-token"], token)
      ? Effect.void
      : Effect.fail(
          new Forbidden({
            message: "The token is missing or wrong: open the address printed by caravan ui --allow-control, or paste its token."
          })
        )

const doing = ({ token }: UiOptions) =>
  HttpApiBuilder.group(Api, "doing", (handlers) =>
    Effect.gen(function* () {
      const services = yield* Effect.context<Journal | Store>()
      const given = <A, E>(headers: { readonly "x-caravan-token"?: string | undefined }, effect: Effect.Effect<A, E, Journal | Store>) =>
        answering(Effect.andThen(permit(token, headers), Effect.provide(effect, services)))
      return handlers
        .handle("stop", ({ headers, payload }) => given(headers, stopRun(payload.run)))
        .handle("begin", ({ headers, payload }) => given(headers, beginAgain(payload.run, payload.node)))
        .handle("pin", ({ headers, payload }) => given(headers, setPin(payload.digest, payload.isPinned, payload.note)))
        .handle("note", ({ headers, payload }) => given(headers, setNote(payload.run, payload)))
        .handle("tasks", ({ headers }) => given(headers, labelTasks))
        .handle("labelling", ({ headers, query }) => given(headers, labelView(query.task, query.annotator, query.at)))
        .handle("label", ({ headers, payload: { annotator, pair, revision, task, ...label } }) =>
          given(headers, keepLabel(task, annotator, pair, label, revision))
        )
        .handle("finish", ({ headers, payload }) => given(headers, finishLabels(payload.task, payload.annotators)))
    })
  )

/** A request that does not match its schema is the client's mistake; a response that does not is ours. */
const unfit = HttpApiMiddleware.layerSchemaErrorTransform(Unfit, ({ cause, kind }) => {
  const isOurs = kind === "Body" || kind === "ResponseHeaders"
  const what = cause.message.replaceAll(/\s*\n\s*/g, " ").slice(0, 300)
  const message = isOurs
    ? `This is a bug in caravan: a response of the page's server does not match its schema: ${what}`
    : `Reading the request: ${what}`
  return Effect.succeed(HttpServerResponse.jsonUnsafe({ message }, { status: isOurs ? 500 : 400 }))
})

/** Refuses unauthorized requests and adds security headers to responses. */
const guarded = HttpRouter.middleware(
  (answer) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const { address } = yield* HttpServer.HttpServer
      const objection = objectionTo(request.headers, "port" in address ? address.port : 0)
      const answered = objection === undefined ? yield* answer : HttpServerResponse.jsonUnsafe({ message: objection }, { status: 403 })
      const kept = answered.headers["cache-control"] === undefined ? { "cache-control": "no-store" } : {}
      return HttpServerResponse.setHeaders(answered, { ...safeHeaders, ...kept })
    }),
  { global: true }
)

/** The page's files; files with a digest in their name are cached forever. */
const pages = (page: ReadonlyMap<string, PageFile>) =>
  HttpRouter.add("GET", "/*", (request) => {
    const path = request.url.split("?", 1)[0]!
    const file = page.get(path)
    if (file === undefined) return Effect.succeed(HttpServerResponse.jsonUnsafe({ message: `Not found.` }, { status: 404 }))
    const cache = path.startsWith("/assets/") ? "public, max-age=31536000, immutable" : "no-store"
    return Effect.succeed(HttpServerResponse.uint8Array(file.bytes, { contentType: file.type, headers: { "cache-control": cache } }))
  })

/** Serves until its scope closes. */
export const serveUi = (options: UiOptions) => {
  const server = randomUUID()
  const api = HttpApiBuilder.layer(Api).pipe(
    Layer.provide([looking(options, server), reading, comparing, doing(options)]),
    Layer.provide(unfit)
  )
  const routes = Layer.mergeAll(api, pages(options.page), guarded)
  return HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port: options.port })),
    Layer.provide(storeAt(options.home))
  )
}

/** The address on which it listens. */
export const addressOf = Effect.map(HttpServer.HttpServer, ({ address }) =>
  "port" in address ? `http://127.0.0.1:${address.port}/` : String(address)
)
