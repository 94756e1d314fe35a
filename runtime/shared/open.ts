/** Opening the place where results are shared. */
import { sharedFolder } from "./folder.ts"
import type { SharedFiles } from "./files.ts"

export interface SharedPlace {
  readonly folder: string
  /** What is there is used, and nothing is written. */
  readonly isReadOnly?: boolean
  /** How long a call may take without a byte being moved, in seconds; 20 unless given. */
  readonly seconds?: number
}

export const openShared = ({ folder, isReadOnly = false, seconds = 20 }: SharedPlace): SharedFiles =>
  sharedFolder(folder, { isReadOnly, seconds })
