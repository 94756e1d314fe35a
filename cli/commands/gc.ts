/** `caravan gc`: frees space in the store. Shows what it would delete; deletes it with --yes. */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { gc, type GcPlan, planGc } from "../../runtime/store/gc.ts"
import { sizeOf } from "../../runtime/store/objects.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { ago, count, short, size, table } from "../display/units.ts"
import { ageFlag, sizeFlag } from "../flag-values.ts"

/** Maximum number of objects listed. */
const shownObjects = 40

const reasons = { unreachable: "unreachable", old: "not used recently", "beyond the size": "over the size limit" } as const

const sum = (items: ReadonlyArray<{ readonly size: number }>): number => items.reduce((total, item) => total + item.size, 0)

const planned = (collection: GcPlan): Array<string> => {
  const { objects, leftovers } = collection
  const rows = objects
    .slice(0, shownObjects)
    .map((item) => [short(item.digest), size(item.size), item.node ?? "-", item.type ?? "damaged", ago(item.used), reasons[item.why]])
  const kinds = (["quarantine", "tmp", "trash", "log", "checkpoint", "job", "shards"] as const).flatMap((what) => {
    const found = leftovers.filter((leftover) => leftover.what === what)
    return found.length === 0 ? [] : [`${what}: ${found.length}, ${size(sum(found))}`]
  })
  return [
    ...table(rows),
    ...(objects.length > shownObjects ? [`... and ${objects.length - shownObjects} more`] : []),
    ...(kinds.length > 0 ? [`Leftovers: ${kinds.join("; ")}`] : [])
  ]
}

/** A line about files that --max-size does not count, if there are any. */
const uncounted = (home: string): Effect.Effect<Array<string>> =>
  Effect.promise(async () => {
    const sizes: Array<string> = []
    for (const name of ["checkpoints", "jobs", "shards", "logs"]) {
      const bytes = await sizeOf(join(home, name))
      if (bytes > 0) sizes.push(`${name} ${size(bytes)}`)
    }
    return sizes.length === 0 ? [] : [`Not counted by --max-size: ${sizes.join(", ")}; --older-than deletes the old ones.`]
  })

export const command: Command = {
  name: "gc",
  summary:
    "Shows what can be deleted from the store, and deletes it with --yes. Pinned objects, objects in use by a run and recently used objects stay. The journal keeps the records of deleted results, and a run that needs one recomputes it. Safe to use while pipelines run.",
  positionals: [],
  flags: {
    unreachable: { help: "objects that no result refers to, left by --force or killed runs (the default)" },
    "older-than": {
      value: "age",
      help: "objects that no run has made or used for this long (30d, 12h, 2w); also logs, checkpoints and jobs of unfinished nodes, and shard results, of that age"
    },
    "max-size": {
      value: "size",
      help: "the least recently used objects, until the rest fit in this size (20GB, 500MB); other files in the store are not counted"
    },
    keep: { value: "age", help: "always keep objects used within this time (default: 1h)" },
    yes: { help: "delete what is listed" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan gc", "caravan gc --older-than 30d", "caravan gc --unreachable --max-size 50GB --yes"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const collection = yield* planGc({
          olderThan: ageFlag(given, "older-than"),
          maxSize: sizeFlag(given, "max-size"),
          unreachable: given.has("unreachable") || undefined,
          keep: ageFlag(given, "keep") ?? 3_600_000
        })
        const total = sum(collection.objects) + sum(collection.leftovers)
        const what = `${count(collection.objects.length, "object")}${collection.leftovers.length > 0 ? ` and ${count(collection.leftovers.length, "leftover")}` : ""}`
        const over =
          collection.over > 0 ? [`${size(collection.over)} above the size limit stay: pinned, in use, or recently used (--keep).`] : []
        const keeps = `${count(collection.kept.objects, "object")} of ${size(collection.kept.size)} stay.`
        const otherFiles = given.flag("max-size") !== undefined ? yield* uncounted((yield* Store).home) : []
        const nothing = collection.objects.length === 0 && collection.leftovers.length === 0
        if (!given.has("yes")) {
          print(given.has("json"), { deleted: false, ...collection, size: total }, [
            ...planned(collection),
            nothing ? "Nothing to delete." : `${what} would be deleted, ${size(total)}. Nothing is deleted yet: add --yes.`,
            keeps,
            ...over,
            ...otherFiles
          ])
          return exitCodes.ok
        }
        const collected = yield* gc(collection)
        print(given.has("json"), { deleted: true, ...collection, size: collected.size, stayed: collected.stayed }, [
          nothing
            ? "Nothing to delete."
            : `Deleted ${count(collected.objects, "object")}${collection.leftovers.length > 0 ? ` and ${count(collection.leftovers.length, "leftover")}` : ""}: ${size(collected.size)} freed.`,
          ...collected.stayed.map(({ digest, why }) => `${short(digest)} stayed: ${why}`),
          keeps,
          ...over
        ])
        return exitCodes.ok
      })
    )
}
