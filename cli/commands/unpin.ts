/** `caravan unpin`: removes pins, so that gc may delete the artifacts. */
import * as Effect from "effect/Effect"
import { ancestry, flatten, resolveArtifact } from "../../runtime/inspect/lineage.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { count, short } from "../display/units.ts"

export const command: Command = {
  name: "unpin",
  summary: "Removes an artifact's pin, so that gc may delete it.",
  positionals: ["<artifact>"],
  flags: {
    lineage: { help: "also unpin everything it was made from" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan unpin rlhf-v5", "caravan unpin 3f2a91c04d7e --lineage"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const store = yield* Store
        const text = given.positionals[0]!
        // By the pin's digest, or by a node that produced it: the node's latest result may differ by now.
        const pinned = yield* Effect.filter(yield* store.pins, ({ digest }) =>
          text.length >= 4 && digest.startsWith(text)
            ? Effect.succeed(true)
            : Effect.map(journal.executionsWith(digest, "any"), (executions) =>
                executions.some(({ node, pipeline }) => node === text || `${pipeline}:${node}` === text)
              )
        )
        if (pinned.length > 1)
          return yield* Effect.fail(
            new UsageError(
              `"${text}" is pinned ${pinned.length} times: ${pinned.map(({ digest }) => short(digest)).join(", ")}. Name one by its digest.`
            )
          )
        const named = pinned.length === 1 ? undefined : yield* resolveArtifact(text)
        const digest = pinned.length === 1 ? pinned[0]!.digest : named!.digest
        if (digest === null || !(yield* store.unpin(digest)))
          return yield* Effect.fail(new UsageError(`"${text}" is not pinned. \`caravan pin\` lists the pins.`))
        const unpinned = [digest]
        if (given.has("lineage")) {
          const start = named ?? (yield* resolveArtifact(digest))
          for (const entry of flatten(yield* ancestry(start)))
            if (entry.digest !== null && (yield* store.unpin(entry.digest))) unpinned.push(entry.digest)
        }
        print(given.has("json"), { unpinned }, [
          `Unpinned ${short(digest)}${unpinned.length > 1 ? ` and ${count(unpinned.length - 1, "artifact")} that it was made from` : ""}.`
        ])
        return exitCodes.ok
      })
    )
}
