/** `caravan unpin`: lets gc take an artifact again. */
import * as Effect from "effect/Effect"
import { ancestry, flatten, resolveArtifact } from "../../runtime/inspect/lineage.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { count, short } from "../display/units.ts"

export const command: Command = {
  name: "unpin",
  summary: "Removes the pin of an artifact, so that gc may delete it.",
  positionals: ["<artifact>"],
  flags: {
    lineage: { help: "also unpin everything it was made from" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan unpin rlhf-v5", "caravan unpin 3f2a91c04d7e --lineage"],
  run: (given) =>
    withStore(async ({ journal, store }) => {
      const text = given.positionals[0]!
      // By the pin's digest, or by a node that had it as its result: the node's latest result may be another by now.
      const pinned = store
        .pins()
        .filter(
          ({ digest }) =>
            (text.length >= 4 && digest.startsWith(text)) ||
            journal.executionsWith(digest, "any").some(({ node, pipeline }) => node === text || `${pipeline}:${node}` === text)
        )
      if (pinned.length > 1)
        throw new UsageError(
          `"${text}" is pinned ${pinned.length} times: ${pinned.map(({ digest }) => short(digest)).join(", ")}. Say which.`
        )
      const named = pinned.length === 1 ? undefined : await Effect.runPromise(resolveArtifact(text, journal))
      const digest = pinned.length === 1 ? pinned[0]!.digest : named!.digest
      if (digest === null || !store.unpin(digest)) throw new UsageError(`"${text}" is not pinned. \`caravan pin\` lists what is.`)
      const unpinned = [digest]
      if (given.has("lineage")) {
        const start = named ?? (await Effect.runPromise(resolveArtifact(digest, journal)))
        for (const entry of flatten(ancestry(start, journal)))
          if (entry.digest !== null && store.unpin(entry.digest)) unpinned.push(entry.digest)
      }
      print(given.has("json"), { unpinned }, [
        `Unpinned ${short(digest)}${unpinned.length > 1 ? ` and ${count(unpinned.length - 1, "artifact")} it was made from` : ""}.`
      ])
      return exitCodes.ok
    })
}
