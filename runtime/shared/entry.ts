/** A key's entry in the shared results: the result's digest, and its trace. The first line is the sha256 of the rest. */
import { hash } from "node:crypto"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { SharedError } from "./files.ts"

const Digest = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))
const Numbers = Schema.Record(Schema.String, Schema.NullOr(Schema.Number))
const Texts = Schema.Record(Schema.String, Schema.String)

const Entry = Schema.Struct({
  format: Schema.Literal(1),
  key: Digest,
  digest: Digest,
  contentDigest: Schema.String,
  type: Schema.String,
  metrics: Numbers,
  sidecar: Schema.NullOr(Digest),
  skipped: Schema.Array(
    Schema.Struct({
      what: Schema.String,
      of: Schema.Number,
      skipped: Schema.Number,
      reasons: Schema.Record(Schema.String, Schema.Number)
    })
  ),
  /** The code that made it: a pinned stage's code is not in the key. */
  code: Schema.String,
  files: Texts
})
export type Entry = typeof Entry.Type

const decodeEntry = Schema.decodeUnknownExit(Entry)

const Manifest = Schema.Struct({
  format: Schema.Literal(1),
  type: Schema.String,
  contentDigest: Schema.String,
  files: Schema.Array(Schema.Struct({ path: Schema.String, size: Schema.Number, sha256: Digest }))
})
export type SharedManifest = typeof Manifest.Type
const decodeManifestJson = Schema.decodeUnknownExit(Manifest)

export const encodeEntry = (entry: Entry): Uint8Array => {
  const text = JSON.stringify(entry)
  return Buffer.from(`${hash("sha256", text)}\n${text}`)
}

export const decodeEntryOf = (key: string, bytes: Uint8Array): Entry => {
  const lying = (what: string) => new SharedError("lying", `its entry for the key ${key} ${what}`)
  const text = Buffer.from(bytes).toString("utf8")
  const end = text.indexOf("\n")
  const body = text.slice(end + 1)
  if (end === -1 || hash("sha256", body) !== text.slice(0, end)) throw lying("is damaged")
  const decoded = decodeEntry(JSON.parse(body))
  if (Exit.isFailure(decoded)) throw lying("has a format that this version of caravan does not support")
  if (decoded.value.key !== key) throw lying(`belongs to another key, ${decoded.value.key}`)
  return decoded.value
}

/** A manifest whose bytes match the requested digest. Its paths stay below the folder that they are written to. */
export const decodeManifest = (digest: string, bytes: Uint8Array): SharedManifest => {
  const lying = (what: string) => new SharedError("lying", `its manifest ${digest} ${what}`)
  let parsed: unknown
  try {
    parsed = JSON.parse(Buffer.from(bytes).toString("utf8"))
  } catch {
    throw lying("is not JSON")
  }
  const decoded = decodeManifestJson(parsed)
  if (Exit.isFailure(decoded)) throw lying("is not a manifest that this version of caravan supports")
  const wrong = decoded.value.files.find(
    ({ path, size }) =>
      !Number.isSafeInteger(size) || size < 0 || path.split("/").some((part) => ["", ".", ".."].includes(part)) || path.includes("\0")
  )
  if (wrong !== undefined) throw lying(`lists an invalid file path: ${JSON.stringify(wrong.path)}`)
  return decoded.value
}
