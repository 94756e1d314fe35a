/** The page's files; in a clone they are built when they are not there or older than their sources. The package has them. */
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { UsageError } from "../command.ts"
import { type PageFile, readPage } from "./page-files.ts"

const builder = fileURLToPath(new URL("../../ui/build.mjs", import.meta.url))

export const builtPage = (): ReadonlyMap<string, PageFile> => {
  if (existsSync(builder)) {
    // It says what it does on stderr, and does nothing when there is nothing to do.
    const { status } = spawnSync(process.execPath, [builder], { stdio: ["ignore", 2, 2] })
    if (status !== 0)
      throw new UsageError("The page could not be built; the reason is above. Fix that, then try again: runs need none of it.")
  }
  const page = readPage()
  if (page === undefined)
    throw new UsageError("This package of caravan was made without the page of `caravan ui`. Install one that has it.")
  return page
}
