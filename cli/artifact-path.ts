/** The folder or file that a word on the command line stands for: a path as it is, or what the store has under a name or a digest. */
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import { locate } from "../runtime/inspect/resolve.ts"
import { findHome } from "../runtime/store/home.ts"
import { Store } from "../runtime/store/store.ts"
import { UsageError } from "./command.ts"
import { withStore } from "./open-store.ts"

/** Throws a UsageError when nothing is called that, or when gc has deleted it. */
export const artifactPath = async (text: string): Promise<string> => {
  if (!existsSync(join(findHome(process.cwd()), "journal.db"))) {
    if (existsSync(text)) return resolve(text)
    throw new UsageError(
      `Looking for "${text}": there is no such file or folder, and no store here (${findHome(process.cwd())}) that could have it.`
    )
  }
  return withStore(
    Effect.gen(function* () {
      const store = yield* Store
      const located = yield* locate(text)
      if (located.kind === "file") return located.path
      if (yield* store.present(located.digest)) return store.path(located.digest)
      return yield* Effect.fail(
        new UsageError(
          `Looking for "${text}": the result ${located.digest.slice(0, 12)} is no longer in the store. Run its pipeline: it is made again.`
        )
      )
    })
  )
}
