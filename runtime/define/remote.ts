/** Files that lie elsewhere, whose content is known: what a file node of a graph stands for once its name on the Hub was looked up. */

export interface Watching {
  readonly signal?: AbortSignal | undefined
  /** Bytes that came; fewer than none where what came before turned out to be wrong. */
  readonly onBytes: (count: number) => void
}

export interface RemoteFiles {
  /** As it was given: "hf:owner/name@main". */
  readonly name: string
  /** With the commit in the revision's place. */
  readonly pinned: string
  /** Of the repository, the commit, and each file's path and content. */
  readonly digest: string
  /** In all. */
  readonly bytes: number
  /** Where they are once they are fetched. */
  readonly path: string
  /** Whether they are there. */
  readonly isThere: () => boolean
  /** Bytes that a fetch would download. */
  readonly missing: () => number
  /** Sees to it that they are there, and sound. Rejects with a PipelineError or a StoreError. */
  readonly fetch: (watching: Watching) => Promise<void>
  /** Of the same files the one of this name, as a folder that has it alone. */
  readonly only: (file: string) => RemoteFiles
}
