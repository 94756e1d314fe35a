/** The page's files. In a clone they are built if missing or older than their sources; the package contains them. */
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { UsageError } from "../command.ts"
import { type PageFile, readPage } from "./page-files.ts"

const builder = fileURLToPath(new URL("../../ui/build.mjs", import.meta.url))

export const builtPage = (): ReadonlyMap<string, PageFile> => {
  if (existsSync(builder)) {
    // It reports on stderr, and does nothing if the page is up to date.
    const { status } = spawnSync(process.execPath, [builder], { stdio: ["ignore", 2, 2] })
    if (status !== 0)
      throw new UsageError("The page could not be built (see the error above). Fix that and try again; runs do not need the page.")
  }
  const page = readPage()
  if (page === undefined)
    throw new UsageError("This caravan package was built without the page of `caravan ui`. Install a package that contains it.")
  return page
}
