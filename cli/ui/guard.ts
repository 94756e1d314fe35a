/**
 * Who may ask. The server listens on loopback; a page of another site can still send requests there from the user's browser, or have a name of its own lead
 * there (DNS rebinding). So a request's Host must be loopback, and its Origin, where it has one, this very server.
 */
import { timingSafeEqual } from "node:crypto"

const loopback = new Set(["127.0.0.1", "localhost", "[::1]"])

/** The host's name and port; undefined where it is no host. */
const partsOf = (host: string): { readonly name: string; readonly port: string } | undefined => {
  const [, name, port = "80"] = /^(\[[0-9a-f:]+\]|[^:/@\s]+)(?::(\d{1,5}))?$/i.exec(host) ?? []
  return name === undefined ? undefined : { name: name.toLowerCase(), port }
}

/** Why a request is refused; undefined where it may be answered. */
export const objectionTo = (headers: Readonly<Record<string, string | undefined>>, port: number): string | undefined => {
  const host = partsOf(headers.host ?? "")
  if (host === undefined || !loopback.has(host.name) || host.port !== String(port))
    return "This server answers to its own address alone (127.0.0.1 or localhost, with its port). Open the address that `caravan ui` printed."
  const { origin } = headers
  if (origin !== undefined && origin !== `http://${headers.host!.toLowerCase()}`)
    return "This server answers to its own page alone, not to those of other sites."
  // Browsers say whether another site asks, also where there is no Origin.
  const site = headers["sec-fetch-site"]
  if (site !== undefined && site !== "same-origin" && site !== "none")
    return "This server answers to its own page alone, not to those of other sites."
  return undefined
}

/** What every answer says: nothing of others is loaded, nothing is shown within others, nothing is kept. */
export const safeHeaders = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; worker-src 'self'; font-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin"
} as const

/** Whether a token is the one, in the same time whichever characters differ. */
export const isToken = (given: string | undefined, token: string): boolean => {
  const [a, b] = [Buffer.from(given ?? ""), Buffer.from(token)]
  return a.length === b.length && timingSafeEqual(a, b)
}
