/** Remote files with known content: a file node has one after its Hub name has been resolved. */

export interface Watching {
  readonly signal?: AbortSignal | undefined
  /** Number of bytes received; negative if earlier bytes turned out to be wrong. */
  readonly onBytes: (count: number) => void
}

export interface RemoteFiles {
  /** The name as given: "hf:owner/name@main". */
  readonly name: string
  /** The name with the commit as its revision. */
  readonly pinned: string
  /** Digest of the repository, the commit, and each file's path and content. */
  readonly digest: string
  /** Total bytes. */
  readonly bytes: number
  /** Where the files are after fetching. */
  readonly path: string
  /** Whether the files exist locally. */
  readonly isThere: () => boolean
  /** Bytes that a fetch would download. */
  readonly missing: () => number
  /** Downloads missing files and checks them. Rejects with a PipelineError or a StoreError. */
  readonly fetch: (watching: Watching) => Promise<void>
  /** Only the file with this name, as a folder that contains nothing else. */
  readonly only: (file: string) => RemoteFiles
}
