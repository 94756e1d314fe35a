/**
 * A server on loopback that answers like the Hugging Face Hub, and another one in the role of the hosts that store files. The answers were
 * recorded from the Hub's own (with huggingface_hub 1.x and huggingface.js 2.17 as callers): statuses, X-Error-Code, ETag, X-Linked-Etag, X-Repo-Commit,
 * Link for the next page, 302 to another host for large files, 307 within the host for small ones, ranges.
 */
import { createHash } from "node:crypto"
import { once } from "node:events"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export const goodToken = "hf_good"
/** Files from this size on are stored on the other host. */
const lfsFrom = 1000

export interface Repo {
  readonly isPrivate: boolean
  readonly isGated: boolean
  /** Branch or tag -> commit. */
  readonly refs: Map<string, string>
  /** Commit -> path -> content. */
  readonly commits: Map<string, Map<string, Buffer>>
}
export interface Seen {
  readonly host: "hub" | "cdn"
  readonly method: string
  readonly path: string
  readonly authorization: string | undefined
  readonly range: string | undefined
}
/** Handles the nth request for a content (from 0), with the bytes to be sent; returns true if it has answered. */
export type Fault = (n: number, response: ServerResponse, bytes: Buffer, headers: Record<string, string>) => boolean

export const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex")
export const gitDigest = (bytes: Buffer): string => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")
const isLfs = (bytes: Buffer): boolean => bytes.length >= lfsFrom
const commitOf = (files: ReadonlyMap<string, Buffer>, salt: number): string =>
  createHash("sha1")
    .update(`${salt} ${[...files].map(([path, bytes]) => `${path} ${gitDigest(bytes)}`).join("\n")}`)
    .digest("hex")

export class FakeHub {
  readonly repos = new Map<string, Repo>()
  readonly seen: Array<Seen> = []
  readonly faults = new Map<string, Fault>()
  /** Uploaded contents by sha256. */
  readonly uploads = new Map<string, Buffer>()
  readonly parts = new Map<string, Map<number, Buffer>>()
  /** Entries per page of a list of files. */
  pageSize = 1000
  /** Bytes per part of an upload; larger uploads have several parts. */
  partSize = 1 << 20
  /** Answers a request to the Hub before anything else, if it returns true. */
  instead: (request: IncomingMessage, response: ServerResponse) => boolean = () => false
  readonly #times = new Map<string, number>()
  readonly #hub: Server
  readonly #cdn: Server

  private constructor() {
    const guarded = (host: Seen["host"], answer: (request: IncomingMessage, response: ServerResponse) => Promise<void> | void) =>
      createServer((request, response) => {
        const { authorization, range } = request.headers
        this.seen.push({ host, method: request.method ?? "", path: request.url ?? "", authorization, range })
        Promise.resolve(answer(request, response)).catch((cause: unknown) => response.writeHead(500).end(String(cause)))
      })
    this.#hub = guarded("hub", (request, response) => {
      if (!this.instead(request, response)) return this.#answer(request, response)
    })
    this.#cdn = guarded("cdn", (request, response) => this.#answerFile(request, response))
  }
  static async start(): Promise<FakeHub> {
    const made = new FakeHub()
    for (const server of [made.#hub, made.#cdn]) await once(server.listen(0, "127.0.0.1"), "listening")
    return made
  }
  async close(): Promise<void> {
    for (const server of [this.#hub, this.#cdn]) {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  }
  /** Restores the initial state, on the same ports. */
  reset(): void {
    for (const map of [this.repos, this.faults, this.uploads, this.parts, this.#times]) map.clear()
    this.seen.length = 0
    this.pageSize = 1000
    this.partSize = 1 << 20
    this.instead = () => false
  }
  get endpoint(): string {
    return `http://127.0.0.1:${(this.#hub.address() as AddressInfo).port}`
  }
  get cdn(): string {
    return `http://127.0.0.1:${(this.#cdn.address() as AddressInfo).port}`
  }
  /** Environment variables that point to this server, with a cache in this folder. */
  environment(home: string, more: Readonly<Record<string, string>> = {}): Record<string, string> {
    return { HF_ENDPOINT: this.endpoint, HF_HOME: home, HF_HUB_CACHE: "", HF_HUB_OFFLINE: "", HF_TOKEN: "", HF_TOKEN_PATH: "", ...more }
  }

  /** Adds a commit with only these files to a branch; returns its hash. `repo`: "models/owner/name" or "datasets/owner/name". */
  commit(
    repo: string,
    files: Readonly<Record<string, string | Buffer>>,
    { branch = "main", isGated = false, isPrivate = false } = {}
  ): string {
    const made = this.repos.get(repo) ?? {
      isPrivate,
      isGated,
      refs: new Map<string, string>(),
      commits: new Map<string, Map<string, Buffer>>()
    }
    this.repos.set(repo, made)
    const contents = new Map(Object.entries(files).map(([path, content]) => [path, Buffer.from(content)]))
    const sha = commitOf(contents, made.commits.size)
    made.commits.set(sha, contents)
    made.refs.set(branch, sha)
    return sha
  }
  files(repo: string, branch = "main"): ReadonlyMap<string, Buffer> {
    const { commits, refs } = this.repos.get(repo)!
    return commits.get(refs.get(branch)!)!
  }

  #refuse(response: ServerResponse, status: number, code: string | undefined, message: string) {
    response
      .writeHead(status, {
        "content-type": "application/json",
        ...(code !== undefined && { "x-error-code": code, "x-error-message": message })
      })
      .end(JSON.stringify({ error: message }))
  }
  #json(response: ServerResponse, body: unknown, headers: Record<string, string> = {}) {
    response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(body))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", this.endpoint)
    const path = decodeURIComponent(url.pathname)
    const authorization = request.headers.authorization
    const isKnown = authorization === `Bearer ${goodToken}`
    if (authorization !== undefined && !isKnown)
      return this.#refuse(response, 401, undefined, "Invalid credentials in Authorization header")
    if (request.method === "POST" || request.method === "PUT") return this.#change(request, response, path, isKnown)
    if (path.startsWith("/api/resolve-cache/")) return this.#answerFile(request, response, path.slice("/api/resolve-cache".length))

    const api = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)(?:\/(revision|tree)\/(.+))?$/.exec(path)
    const file = /^\/(?:(datasets)\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path)
    const name = api !== null ? `${api[1]}/${api[2]}` : file !== null ? `${file[1] ?? "models"}/${file[2]}` : ""
    const repo = this.repos.get(name)
    if (repo === undefined || (repo.isPrivate && !isKnown))
      return isKnown
        ? this.#refuse(response, 404, "RepoNotFound", "Repository not found")
        : this.#refuse(response, 401, "RepoNotFound", "Invalid username or password.")
    const shaOf = (revision: string) => (repo.commits.has(revision) ? revision : repo.refs.get(revision))
    if (api !== null) {
      const [, , , what, revision = "main"] = api
      const sha = shaOf(revision)
      if (sha === undefined) return this.#refuse(response, 404, "RevisionNotFound", `Invalid rev id: ${revision}`)
      if (what !== "tree")
        return this.#json(response, { id: name.replace(/^\w+\//, ""), sha, private: repo.isPrivate, gated: repo.isGated ? "auto" : false })
      return this.#tree(response, repo.commits.get(sha)!, url)
    }
    const sha = shaOf(file![3]!)
    if (sha === undefined) return this.#refuse(response, 404, "RevisionNotFound", `Invalid rev id: ${file![3]}`)
    if (repo.isGated && !isKnown) return this.#refuse(response, 401, "GatedRepo", `Access to model ${file![2]} is restricted.`)
    const bytes = repo.commits.get(sha)!.get(file![4]!)
    if (bytes === undefined) return this.#refuse(response, 404, "EntryNotFound", "Entry not found")
    const location = `/${name}/${sha}/${file![4]!.split("/").map(encodeURIComponent).join("/")}`
    const common = { "x-repo-commit": sha, "accept-ranges": "bytes" }
    if (isLfs(bytes))
      response
        .writeHead(302, {
          ...common,
          ...{
            "x-linked-etag": `"${sha256(bytes)}"`,
            "x-linked-size": String(bytes.length),
            location: `${this.cdn}${location}?Signature=secret`
          }
        })
        .end()
    else response.writeHead(307, { ...common, etag: `"${gitDigest(bytes)}"`, location: `/api/resolve-cache${location}` }).end()
  }

  #tree(response: ServerResponse, files: ReadonlyMap<string, Buffer>, url: URL) {
    const folders = new Set(
      [...files.keys()].flatMap((path) =>
        path
          .split("/")
          .slice(0, -1)
          .map((_, i, all) => all.slice(0, i + 1).join("/"))
      )
    )
    const entries = [
      ...[...folders].map((path) => ({ type: "directory", oid: gitDigest(Buffer.from(path)), size: 0, path })),
      ...[...files].map(([path, bytes]) => ({
        ...{ type: "file", oid: gitDigest(bytes), size: bytes.length, path },
        ...(isLfs(bytes) && {
          oid: gitDigest(Buffer.from(sha256(bytes))),
          lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 134 }
        })
      }))
    ]
    const from = Number(url.searchParams.get("cursor") ?? "0")
    const next = from + this.pageSize
    url.searchParams.set("cursor", String(next))
    this.#json(response, entries.slice(from, next), next < entries.length ? { link: `<${url.href}>; rel="next"` } : {})
  }

  /** The bytes of a file or of a range. */
  #answerFile(request: IncomingMessage, response: ServerResponse, at = request.url ?? ""): void {
    const [, name = "", sha = "", path = ""] = /^\/(\w+\/[^/]+\/[^/]+)\/([^/]+)\/(.+)$/.exec(decodeURIComponent(at.split("?")[0]!)) ?? []
    const bytes = this.repos.get(name)?.commits.get(sha)?.get(path)
    if (bytes === undefined) return void response.writeHead(403).end("denied")
    const [, start] = /^bytes=(\d+)-$/.exec(request.headers.range ?? "") ?? []
    const from = Number(start ?? 0)
    const n = this.#times.get(path) ?? 0
    this.#times.set(path, n + 1)
    if (from >= bytes.length && from > 0) return void response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end()
    const rest = bytes.subarray(from)
    const headers = { "content-length": String(rest.length), etag: `"${isLfs(bytes) ? sha256(bytes) : gitDigest(bytes)}"` }
    if (this.faults.get(path)?.(n, response, rest, headers) === true) return
    if (start === undefined) response.writeHead(200, headers).end(rest)
    else response.writeHead(206, { ...headers, "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` }).end(rest)
  }

  async #change(request: IncomingMessage, response: ServerResponse, path: string, isKnown: boolean): Promise<void> {
    const chunks: Array<Buffer> = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks)
    const upload = /^\/upload\/([0-9a-f]{64})(?:\/(\d+))?$/.exec(path)
    if (upload !== null) return this.#upload(response, upload[1]!, upload[2], body)
    const complete = /^\/complete\/([0-9a-f]{64})$/.exec(path)
    if (complete !== null) {
      const parts = [...this.parts.get(complete[1]!)!].sort(([a], [b]) => a - b).map(([, bytes]) => bytes)
      return this.#upload(response, complete[1]!, undefined, Buffer.concat(parts))
    }
    if (!isKnown) return this.#refuse(response, 401, undefined, "Invalid username or password.")
    if (path === "/api/repos/create") {
      const { name, organization, type, visibility, private: isPrivate } = JSON.parse(body.toString()) as Readonly<Record<string, unknown>>
      const repo = `${String(type)}s/${String(organization)}/${String(name)}`
      if (organization !== "me")
        return this.#refuse(response, 403, undefined, `You don't have the rights to create a ${String(type)} under this namespace`)
      if (this.repos.has(repo)) return this.#refuse(response, 409, undefined, `You already created this ${String(type)} repo`)
      this.commit(repo, { ".gitattributes": "*.safetensors filter=lfs\n" }, { isPrivate: visibility === "private" || isPrivate === true })
      return this.#json(response, {
        url: `${this.endpoint}/${type === "dataset" ? "datasets/" : ""}me/${String(name)}`,
        id: name
      })
    }
    const preupload = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/preupload\/(.+)$/.exec(path)
    if (preupload !== null) {
      const { files } = JSON.parse(body.toString()) as { readonly files: ReadonlyArray<{ readonly path: string; readonly size: number }> }
      return this.#json(response, {
        files: files.map((file) => ({ path: file.path, uploadMode: file.size >= lfsFrom ? "lfs" : "regular" }))
      })
    }
    if (path.endsWith(".git/info/lfs/objects/batch")) {
      const { objects } = JSON.parse(body.toString()) as {
        readonly objects: ReadonlyArray<{ readonly oid: string; readonly size: number }>
      }
      return this.#json(response, { transfer: "basic", objects: objects.map(({ oid, size }) => this.#action(oid, size)) })
    }
    const commit = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/commit\/(.+)$/.exec(path)
    if (commit !== null) return this.#commitChange(response, `${commit[1]}/${commit[2]}`, commit[3]!, body)
    this.#refuse(response, 404, undefined, "Not found")
  }

  #action(oid: string, size: number) {
    if (this.uploads.has(oid)) return { oid, size }
    const count = Math.ceil(size / this.partSize)
    const parts = Object.fromEntries(Array.from({ length: count }, (_, i) => [String(i + 1), `${this.endpoint}/upload/${oid}/${i + 1}`]))
    const upload =
      count === 1
        ? { href: `${this.endpoint}/upload/${oid}` }
        : { href: `${this.endpoint}/complete/${oid}`, header: { chunk_size: String(this.partSize), ...parts } }
    return { oid, size, actions: { upload } }
  }
  #upload(response: ServerResponse, oid: string, part: string | undefined, body: Buffer) {
    if (part !== undefined) {
      const parts = this.parts.get(oid) ?? new Map<number, Buffer>()
      this.parts.set(oid, parts.set(Number(part), body))
    } else if (sha256(body) === oid) this.uploads.set(oid, body)
    else return this.#refuse(response, 400, undefined, "the content is not what its digest says")
    this.#json(response, {}, { etag: `"${sha256(body)}"` })
  }
  #commitChange(response: ServerResponse, name: string, branch: string, body: Buffer) {
    const files = new Map(this.files(name, branch))
    const lines = body
      .toString()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly key: string; readonly value: Readonly<Record<string, string>> })
    for (const { key, value } of lines) {
      if (key === "file") files.set(value["path"]!, Buffer.from(value["content"]!, "base64"))
      else if (key === "lfsFile") files.set(value["path"]!, this.uploads.get(value["oid"]!)!)
      else if (key === "deletedFile") files.delete(value["path"]!)
    }
    const sha = this.commit(name, Object.fromEntries(files), { branch })
    this.#json(response, {
      success: true,
      commitOid: sha,
      commitUrl: `${this.endpoint}/${name.replace("models/", "")}/commit/${sha}`,
      hookOutput: ""
    })
  }
}
