/** `caravan pin`: protects artifacts from gc. */
import * as Effect from "effect/Effect"
import { ancestry, flatten, resolveArtifact } from "../../runtime/inspect/lineage.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { count, moment, short, table } from "../display/units.ts"

export const command: Command = {
  name: "pin",
  summary: "Pins an artifact, so that gc keeps it until you unpin it. Without an artifact, lists the pins.",
  positionals: ["[artifact]"],
  flags: {
    note: { value: "text", help: "why it is pinned" },
    lineage: { help: "also pin everything it was made from" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan pin", 'caravan pin rlhf-v5 --note "the one we released"', "caravan pin 3f2a91c04d7e --lineage"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const store = yield* Store
        const [text] = given.positionals
        if (text === undefined) {
          const pins = yield* store.pins
          const nodes = yield* journal.nodesOf()
          print(
            given.has("json"),
            { pins },
            pins.length === 0
              ? ["Nothing is pinned."]
              : table(pins.map((pin) => [short(pin.digest), nodes.get(pin.digest)?.node ?? "-", moment(pin.made), pin.note]))
          )
          return exitCodes.ok
        }
        const named = yield* resolveArtifact(text)
        if (named.digest === null)
          return yield* Effect.fail(new Error(`${named.name} is your own file, not an artifact of the store: gc never deletes it.`))
        const note = given.flag("note") ?? ""
        yield* store.pin(named.digest, note)
        const pinned = [named.digest]
        const gone: Array<string> = []
        for (const { digest } of given.has("lineage") ? flatten(yield* ancestry(named)) : []) {
          if (digest === null) continue
          if (!(yield* store.present(digest))) gone.push(digest)
          else {
            yield* store.pin(digest, note)
            pinned.push(digest)
          }
        }
        print(given.has("json"), { pinned, gone }, [
          `Pinned ${named.name} (${short(named.digest)})${pinned.length > 1 ? ` and ${count(pinned.length - 1, "artifact")} that it was made from` : ""}.`,
          ...(gone.length > 0
            ? [`${count(gone.length, "artifact")} that it was made from are no longer in the store: ${gone.map(short).join(", ")}`]
            : [])
        ])
        return exitCodes.ok
      })
    )
}
