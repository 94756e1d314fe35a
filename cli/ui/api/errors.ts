/** The errors that the server answers with. */
import * as Schema from "effect/Schema"

/** Each message says what was being done, what was found, and what to do. */
const message = { message: Schema.String }
/** The request can't be answered as asked (400). */
export class BadRequest extends Schema.TaggedError<BadRequest>()("BadRequest", message, { httpApiStatus: 400 }) {}
/** The page may not do this: it was started without control, or the token is wrong (403). */
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", message, { httpApiStatus: 403 }) {}
/** The run, node or result does not exist, or not any more (404). */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", message, { httpApiStatus: 404 }) {}
/** Someone else changed the same thing in the meantime (409). */
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", message, { httpApiStatus: 409 }) {}
/** The store or the journal failed. */
export class Broken extends Schema.TaggedError<Broken>()("Broken", message, { httpApiStatus: 500 }) {}

/** Errors of every endpoint that only reads. */
export const readErrors = [BadRequest, NotFound, Broken]
/** Errors of every endpoint that needs the token. */
export const controlErrors = [BadRequest, Conflict, Forbidden, NotFound, Broken]
