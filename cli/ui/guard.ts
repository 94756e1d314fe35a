/**
 * Access control. The server listens on loopback, but a page of another site can still send requests from the user's browser, or resolve its own name
 * to loopback (DNS rebinding). So a request's Host must be loopback, and its Origin, if present, must be this server.
 */
import { timingSafeEqual } from "node:crypto"

const loopback = new Set(["127.0.0.1", "localhost", "[::1]"])

/** The host's name and port; undefined if invalid. */
const partsOf = (host: string): { readonly name: string; readonly port: string } | undefined => {
  const [, name, port = "80"] = /^(\[[0-9a-f:]+\]|[^:/@\s]+)(?::(\d{1,5}))?$/i.exec(host) ?? []
  return name === undefined ? undefined : { name: name.toLowerCase(), port }
}

/** Why a request is refused; undefined if it is allowed. */
export const objectionTo = (headers: Readonly<Record<string, string | undefined>>, port: number): string | undefined => {
  const host = partsOf(headers.host ?? "")
  if (host === undefined || !loopback.has(host.name) || host.port !== String(port))
    return "This server only accepts requests to its own address (127.0.0.1 or localhost, with its port). Open the address that `caravan ui` printed."
  const { origin } = headers
  if (origin !== undefined && origin !== `http://${headers.host!.toLowerCase()}`)
    return "This server only accepts requests from its own page, not from other sites."
  // Browsers report cross-site requests even without an Origin.
  const site = headers["sec-fetch-site"]
  if (site !== undefined && site !== "same-origin" && site !== "none")
    return "This server only accepts requests from its own page, not from other sites."
  return undefined
}

/** Headers of every response: no content from other sites, no embedding in other pages, no caching. */
export const safeHeaders = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; worker-src 'self'; font-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin"
} as const

/** Compares tokens in constant time. */
export const isToken = (given: string | undefined, token: string): boolean => {
  const [a, b] = [Buffer.from(given ?? ""), Buffer.from(token)]
  return a.length === b.length && timingSafeEqual(a, b)
}
