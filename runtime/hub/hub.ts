/**
 * Resolves names on the Hugging Face Hub. Each `Hub`, which lives as long as a run, looks up a revision once, so that everything comes from one
 * commit. The lookup returns the files and their digests, so a key needs no download; files are downloaded when something reads them.
 */
import { join } from "node:path"
import { type HubName, hubNameText, isCommit, parseHubName, repositoryOf, staysInside } from "../../schemas/hub-name.ts"
import type { RemoteFiles, Watching } from "../define/remote.ts"
import { digestOf } from "../encoding.ts"
import { messageOf, PipelineError, StoreError } from "../errors.ts"
import * as cache from "./cache.ts"
import { choose, type Wanted } from "./choose.ts"
import { checkRoom, download } from "./download.ts"
import { persist, request, textOf } from "./request.ts"
import { type HubSettings, hubSettings } from "./settings.ts"

/** Maximum number of concurrent downloads. */
const concurrentFetches = 4
/** Maximum size of a response about a repository, in bytes; a page lists a thousand files. */
const maxTextBytes = 64 << 20
const maxPages = 1000
/** A lookup gives up sooner than a download. */
const lookupTries = 2

/** A repository at the head of its main branch. */
export interface RepositoryNow {
  readonly commit: string
  readonly isPrivate: boolean
  readonly paths: ReadonlyArray<string>
}

export class Hub {
  readonly #given: HubSettings | undefined
  /** "owner/name@main" -> the commit. */
  readonly #commits = new Map<string, string>()

  /** `settings`: default from the environment, read on first use. */
  constructor(settings?: HubSettings) {
    this.#given = settings
  }
  get #settings(): HubSettings {
    return this.#given ?? hubSettings()
  }

  /** Resolves a name. Rejects with a PipelineError (not found, no access) or a StoreError (no network, disk error). */
  async resolve(text: string, options: { readonly wanted?: Wanted; readonly signal?: AbortSignal } = {}): Promise<RemoteFiles> {
    const name = hubNameOf(text)
    const repository = cache.repositoryIn(this.#settings.cache, name)
    const asked = `${repositoryOf(name)}@${name.revision}`
    const commit = this.#commits.get(asked) ?? (await this.#commitOf(name, repository, options.signal))
    this.#commits.set(asked, commit)
    const listed = cache.listIn(repository, commit) ?? (await this.#list(name, repository, commit, options.signal))
    const { files, place } = choose(name, listed, options.wanted ?? "all")
    return this.#files(name, commit, files, place)
  }

  /** The repository's current state, for writing to it; undefined if it does not exist or the token has no access. Rejects like `resolve`. */
  async repository(text: string): Promise<RepositoryNow | undefined> {
    const name = hubNameOf(text)
    const doing = `Looking up ${hubNameText(name)}`
    if (this.#settings.isOffline)
      throw new StoreError({ message: `${doing}: HF_HUB_OFFLINE is set. Unset it and run with a network connection.` })
    const found = await this.#json(apiOf(this.#settings, name, "revision/main"), doing, name, { accept: [404] })
    if (found.status === 404) return undefined
    const { private: isPrivate, sha } = found.body as { readonly private?: unknown; readonly sha?: unknown }
    if (typeof sha !== "string" || !isCommit(sha) || typeof isPrivate !== "boolean")
      throw strange(doing, "a commit hash, and whether the repository is private")
    const files = await this.#list(name, cache.repositoryIn(this.#settings.cache, name), sha, undefined)
    return { commit: sha, isPrivate, paths: files.map(({ path }) => path) }
  }

  #files(name: HubName, commit: string, files: ReadonlyArray<cache.RemoteFile>, place: string): RemoteFiles {
    const repository = cache.repositoryIn(this.#settings.cache, name)
    const folder = cache.viewOf(repository, commit, files)
    return {
      name: hubNameText(name),
      pinned: hubNameText({ ...name, revision: commit }),
      digest: digestOf(["hub/1", repositoryOf(name), commit, place, files.map(({ digest, path }) => [path, digest])]),
      bytes: files.reduce((sum, { size }) => sum + size, 0),
      path: join(folder, place),
      isThere: () => cache.hasView(repository, folder, files),
      missing: () => files.reduce((sum, file) => sum + (cache.hasSize(repository, file) ? 0 : file.size), 0),
      fetch: (watching) => this.#fetch(name, commit, files, folder, watching),
      only: (file) => {
        const path = join(name.path ?? "", file)
        return this.#files(
          name,
          commit,
          files.filter((one) => one.path === path),
          name.path ?? ""
        )
      }
    }
  }

  /** Downloads missing files, and verifies existing ones that were not verified before. */
  async #fetch(name: HubName, commit: string, files: ReadonlyArray<cache.RemoteFile>, folder: string, { onBytes, signal }: Watching) {
    const repository = cache.repositoryIn(this.#settings.cache, name)
    const doing = `Downloading ${hubNameText(name)}`
    await attempt(doing, async () => {
      const missing: Array<cache.RemoteFile> = []
      for (const file of new Map(files.map((one) => [one.digest, one])).values())
        if (!(await cache.isSound(repository, file, onBytes))) missing.push(file)
      if (missing.length > 0 && this.#settings.isOffline)
        throw new StoreError({
          message: `${doing}: ${missing.length} of its ${files.length} files are not in ${repository.folder}, and HF_HUB_OFFLINE is set. Run once with a network connection.`
        })
      const total = missing.reduce((sum, { size }) => sum + size, 0)
      if (total > 0) await checkRoom(repository.folder, total, doing)
      const queue = missing.values()
      const stop = new AbortController()
      const watching = { onBytes, signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]) }
      const work = Array.from({ length: concurrentFetches }, async () => {
        for (const file of queue) await download(this.#settings, { name, commit, file, repository }, watching)
      })
      await Promise.all(work).catch(async (cause: unknown) => {
        stop.abort(cause)
        await Promise.allSettled(work)
        throw cause
      })
      for (const file of files) cache.linkInSnapshot(repository, commit, file)
      cache.makeView(repository, folder, files)
    })
  }

  async #commitOf(name: HubName, repository: cache.Repository, signal: AbortSignal | undefined): Promise<string> {
    const { revision } = name
    const doing = `Looking up ${hubNameText({ ...name, path: undefined })}`
    // A commit needs no lookup; whether it exists is checked when its files are listed.
    if (isCommit(revision)) return revision
    const known = cache.commitIn(repository, revision)
    if (this.#settings.isOffline) {
      if (known !== undefined) return known
      throw new StoreError({
        message: `${doing}: HF_HUB_OFFLINE is set, and ${repository.folder} does not contain ${revision}. Run once with a network connection.`
      })
    }
    const kept = known === undefined ? "" : `, or set HF_HUB_OFFLINE=1 to use ${known}, the commit of ${revision} at the last lookup`
    const { sha } = (
      await this.#json(apiOf(this.#settings, name, `revision/${encodeURIComponent(revision)}`), doing, name, { signal, after: kept })
    ).body as {
      readonly sha?: unknown
    }
    if (typeof sha !== "string" || !isCommit(sha)) throw strange(doing, "a commit hash")
    await attempt(doing, async () => cache.rememberCommit(repository, revision, sha))
    return sha
  }

  async #list(
    name: HubName,
    repository: cache.Repository,
    commit: string,
    signal: AbortSignal | undefined
  ): Promise<ReadonlyArray<cache.RemoteFile>> {
    const doing = `Listing ${hubNameText({ ...name, revision: commit, path: undefined })}`
    if (this.#settings.isOffline)
      throw new StoreError({
        message: `${doing}: HF_HUB_OFFLINE is set, and ${repository.folder} has no list of this commit's files. Run once with a network connection, or use the path of a local copy (${join(repository.folder, "snapshots", commit)}).`
      })
    const found: Array<cache.RemoteFile> = []
    let url: string | undefined = apiOf(this.#settings, name, `tree/${commit}?recursive=true`)
    for (let page = 0; url !== undefined; page++) {
      if (page === maxPages) throw strange(doing, `at most ${maxPages} pages`)
      const { body, next } = await this.#json(url, doing, name, { signal })
      if (!Array.isArray(body)) throw strange(doing, "a list of files")
      for (const entry of body as ReadonlyArray<unknown>) {
        const file = remoteFile(entry, doing)
        if (file !== undefined) found.push(file)
      }
      // Always on the same server: a mirror may return the Hub's own addresses, and only this server receives the token.
      if (next !== undefined && !URL.canParse(next, url)) throw strange(doing, "the address of the next page")
      const { origin } = new URL(url)
      const { pathname, search } = new URL(next ?? "", url)
      url = next === undefined ? undefined : `${origin}${pathname}${search}`
    }
    found.sort((a, b) => (a.path < b.path ? -1 : 1))
    await attempt(doing, async () => cache.rememberList(repository, commit, found))
    return found
  }

  /** A JSON response, and the address of its next page. */
  async #json(
    url: string,
    doing: string,
    { kind, name, owner }: HubName,
    {
      accept = [],
      after = "",
      signal
    }: { readonly accept?: ReadonlyArray<number>; readonly after?: string; readonly signal?: AbortSignal | undefined }
  ) {
    const hint = kind === "model" ? ` For a dataset use hf:datasets/${owner}/${name}.` : ""
    return attempt(doing, () =>
      persist(
        this.#settings.waits.slice(0, lookupTries),
        signal,
        () =>
          request(this.#settings, { url, doing, signal, hint, accept }, async ({ chunks, headers, status }) => {
            if (accept.includes(status)) return { status, body: {} }
            const text = await textOf(chunks, maxTextBytes)
            try {
              return {
                status,
                body: (JSON.parse(text) ?? {}) as unknown,
                next: /<([^>]+)>;\s*rel="next"/.exec(headers.get("link") ?? "")?.[1]
              }
            } catch {
              throw strange(doing, "JSON")
            }
          }),
        { after }
      )
    )
  }
}

/** Parses a name. Throws a PipelineError. */
export const hubNameOf = (text: string): HubName => {
  try {
    return parseHubName(text)
  } catch (cause) {
    throw new PipelineError({ message: messageOf(cause) })
  }
}

const apiOf = ({ endpoint }: HubSettings, { kind, name, owner }: HubName, rest: string): string =>
  `${endpoint}/api/${kind}s/${owner}/${name}/${rest}`

const strange = (doing: string, expected: string): StoreError =>
  new StoreError({ message: `${doing}: expected ${expected}, but the server returned something else. Check HF_ENDPOINT.` })

/** A file in the Hub's listing; undefined for a folder. Refuses paths that would leave the cache and invalid digests, because both become local paths. */
const remoteFile = (entry: unknown, doing: string): cache.RemoteFile | undefined => {
  const { lfs, oid, path, size, type } = (entry ?? {}) as {
    readonly type?: unknown
    readonly path?: unknown
    readonly size?: unknown
    readonly oid?: unknown
    readonly lfs?: { readonly oid?: unknown; readonly size?: unknown } | null
  }
  if (type === "directory") return undefined
  const digest = lfs === undefined || lfs === null ? oid : lfs.oid
  const bytes = lfs === undefined || lfs === null ? size : (lfs.size ?? size)
  if (typeof path !== "string" || !staysInside(path)) throw strange(doing, "paths inside of the repository")
  if (typeof digest !== "string" || !cache.isDigest(digest)) throw strange(doing, `a digest of ${JSON.stringify(path)}`)
  if (typeof bytes !== "number" || !Number.isSafeInteger(bytes) || bytes < 0) throw strange(doing, `a size of ${JSON.stringify(path)}`)
  return { path, size: bytes, digest }
}

/** Adds what was being done to file system errors. */
const shown = (cause: unknown, doing: string): unknown => {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  return code !== undefined && /^E[A-Z]+$/.test(code)
    ? new StoreError({ message: `${doing}: ${messageOf(cause)}. Set HF_HUB_CACHE to a writable folder.` })
    : cause
}
const attempt = async <A>(doing: string, body: () => Promise<A>): Promise<A> => {
  try {
    return await body()
  } catch (cause) {
    throw shown(cause, doing)
  }
}
