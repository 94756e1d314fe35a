/** The API between the page and its server. The page imports only the types. */
import { HttpApi, HttpApiMiddleware } from "effect/http-api"
import { Comparing } from "./api/comparing.ts"
import { Doing } from "./api/doing.ts"
import { BadRequest } from "./api/errors.ts"
import { Reading } from "./api/reading.ts"
import { Looking } from "./api/runs.ts"

export * from "./api/comparing.ts"
export * from "./api/doing.ts"
export * from "./api/errors.ts"
export * from "./api/reading.ts"
export * from "./api/runs.ts"
export * from "./api/values.ts"

/** Describes what is wrong with a request. */
export class Unfit extends HttpApiMiddleware.Service<Unfit>()("caravan/ui/Unfit", { error: BadRequest }) {}

export class Api extends HttpApi.make("caravan").add(Looking).add(Reading).add(Comparing).add(Doing).middleware(Unfit) {}
