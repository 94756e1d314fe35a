/**
 * What names on the Hugging Face Hub stand for. A revision is looked up once for each `Hub`, which lives as long as a run: everything in it is of one commit. What
 * is looked up and listed says which files there are and what is in them, so that a key needs no download; files are fetched when somebody reads them.
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

/** Files that are fetched at once. */
const fetchesAtOnce = 4
/** Bytes of an answer about a repository, at most; a page lists a thousand files. */
const mostText = 64 << 20
const mostPages = 1000
/** Looking a name up is given up sooner than a download. */
const lookupTries = 2

/** A repository at the end of its main branch. */
export interface RepositoryNow {
  readonly commit: string
  readonly isPrivate: boolean
  readonly paths: ReadonlyArray<string>
}

export class Hub {
  readonly #given: HubSettings | undefined
  /** "owner/name@main" -> the commit. */
  readonly #commits = new Map<string, string>()

  /** `settings`: those of the environment unless given, read when they are first needed. */
  constructor(settings?: HubSettings) {
    this.#given = settings
  }
  get #settings(): HubSettings {
    return this.#given ?? hubSettings()
  }

  /** Looks up what a name stands for. Rejects with a PipelineError (no such thing, no access) or a StoreError (no network, no disk). */
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

  /** The repository as it is now, for whoever is to write to it; undefined where there is none, or the token may not see it. Rejects as `resolve` does. */
  async repository(text: string): Promise<RepositoryNow | undefined> {
    const name = hubNameOf(text)
    const doing = `Looking up ${hubNameText(name)}`
    if (this.#settings.isOffline) throw new StoreError({ message: `${doing}: HF_HUB_OFFLINE is set. Run it with a network.` })
    const found = await this.#json(apiOf(this.#settings, name, "revision/main"), doing, name, { accept: [404] })
    if (found.status === 404) return undefined
    const { private: isPrivate, sha } = found.body as { readonly private?: unknown; readonly sha?: unknown }
    if (typeof sha !== "string" || !isCommit(sha) || typeof isPrivate !== "boolean")
      throw strange(doing, "the hash of a commit, and whether it is private")
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

  /** Fetches what is not there, and reads what is and was not read before. */
  async #fetch(name: HubName, commit: string, files: ReadonlyArray<cache.RemoteFile>, folder: string, { onBytes, signal }: Watching) {
    const repository = cache.repositoryIn(this.#settings.cache, name)
    const doing = `Fetching ${hubNameText(name)}`
    await attempt(doing, async () => {
      const missing: Array<cache.RemoteFile> = []
      for (const file of new Map(files.map((one) => [one.digest, one])).values())
        if (!(await cache.isSound(repository, file, onBytes))) missing.push(file)
      if (missing.length > 0 && this.#settings.isOffline)
        throw new StoreError({
          message: `${doing}: ${missing.length} of its ${files.length} files are not in ${repository.folder}, and HF_HUB_OFFLINE is set. Run once with a network.`
        })
      const total = missing.reduce((sum, { size }) => sum + size, 0)
      if (total > 0) await checkRoom(repository.folder, total, doing)
      const queue = missing.values()
      const stop = new AbortController()
      const watching = { onBytes, signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]) }
      const work = Array.from({ length: fetchesAtOnce }, async () => {
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
    // A commit is itself, whatever the Hub says; whether there is one is seen when its files are listed.
    if (isCommit(revision)) return revision
    const known = cache.commitIn(repository, revision)
    if (this.#settings.isOffline) {
      if (known !== undefined) return known
      throw new StoreError({
        message: `${doing}: HF_HUB_OFFLINE is set, and ${repository.folder} does not know ${revision}. Run once with a network.`
      })
    }
    const kept = known === undefined ? "" : `, or set HF_HUB_OFFLINE=1 to take ${known}, which ${revision} was when it was last looked up`
    const { sha } = (
      await this.#json(apiOf(this.#settings, name, `revision/${encodeURIComponent(revision)}`), doing, name, { signal, after: kept })
    ).body as {
      readonly sha?: unknown
    }
    if (typeof sha !== "string" || !isCommit(sha)) throw strange(doing, "the hash of a commit")
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
        message: `${doing}: HF_HUB_OFFLINE is set, and ${repository.folder} has no list of this commit's files. Run once with a network, or give the folder of a copy that is here (${join(repository.folder, "snapshots", commit)}) as a path.`
      })
    const found: Array<cache.RemoteFile> = []
    let url: string | undefined = apiOf(this.#settings, name, `tree/${commit}?recursive=true`)
    for (let page = 0; url !== undefined; page++) {
      if (page === mostPages) throw strange(doing, `at most ${mostPages} pages`)
      const { body, next } = await this.#json(url, doing, name, { signal })
      if (!Array.isArray(body)) throw strange(doing, "a list of files")
      for (const entry of body as ReadonlyArray<unknown>) {
        const file = remoteFile(entry, doing)
        if (file !== undefined) found.push(file)
      }
      // Always of the same server: a mirror may pass on the Hub's own addresses, and nobody else is sent the token.
      if (next !== undefined && !URL.canParse(next, url)) throw strange(doing, "the address of the next page")
      const { origin } = new URL(url)
      const { pathname, search } = new URL(next ?? "", url)
      url = next === undefined ? undefined : `${origin}${pathname}${search}`
    }
    found.sort((a, b) => (a.path < b.path ? -1 : 1))
    await attempt(doing, async () => cache.rememberList(repository, commit, found))
    return found
  }

  /** An answer in JSON, and the address of the next page of it. */
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
    const hint = kind === "model" ? ` A data set is hf:datasets/${owner}/${name}.` : ""
    return attempt(doing, () =>
      persist(
        this.#settings.waits.slice(0, lookupTries),
        signal,
        () =>
          request(this.#settings, { url, doing, signal, hint, accept }, async ({ chunks, headers, status }) => {
            if (accept.includes(status)) return { status, body: {} }
            const text = await textOf(chunks, mostText)
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

/** The name that a text is. Throws a PipelineError. */
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
  new StoreError({ message: `${doing}: expected ${expected}, and the server answered something else. Check HF_ENDPOINT.` })

/** A file as the Hub lists it; undefined for a folder. A path that would leave the cache, or a digest that is none, is refused: both become paths here. */
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

/** Errors of the file system, told of with what was being done. */
const shown = (cause: unknown, doing: string): unknown => {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  return code !== undefined && /^E[A-Z]+$/.test(code)
    ? new StoreError({ message: `${doing}: ${messageOf(cause)}. Name a folder that can be written to in HF_HUB_CACHE.` })
    : cause
}
const attempt = async <A>(doing: string, body: () => Promise<A>): Promise<A> => {
  try {
    return await body()
  } catch (cause) {
    throw shown(cause, doing)
  }
}
