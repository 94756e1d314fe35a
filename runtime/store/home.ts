/** Where the store and the journal are: the folder CARAVAN_HOME names, or `.caravan/` beside the nearest package.json. */
import { existsSync } from "node:fs"
import { dirname, join, resolve } from "node:path"

export const findHome = (from: string, environment: Readonly<Record<string, string | undefined>> = process.env): string => {
  const named = environment.CARAVAN_HOME
  if (named !== undefined && named !== "") return resolve(named)
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return join(folder, ".caravan")
    if (folder === dirname(folder)) return join(resolve(from), ".caravan")
  }
}
