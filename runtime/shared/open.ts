/** Opens the storage of shared results. */
import { sharedFolder } from "./folder.ts"
import type { SharedFiles } from "./files.ts"

export interface SharedPlace {
  readonly folder: string
  /** Use existing results, but write none. */
  readonly isReadOnly?: boolean
  /** Seconds that a call may take without progress. Default: 20. */
  readonly seconds?: number
}

export const openShared = ({ folder, isReadOnly = false, seconds = 20 }: SharedPlace): SharedFiles =>
  sharedFolder(folder, { isReadOnly, seconds })
