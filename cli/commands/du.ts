/** `caravan du`: what uses space in the store. */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type StoredItem, storedItems } from "../../runtime/store/gc.ts"
import { sizeOf } from "../../runtime/store/objects.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { count, size, table } from "../display/units.ts"

/** Maximum number of groups listed. */
const shownGroups = 30

const groupings: Readonly<Record<string, (item: StoredItem) => string>> = {
  node: (item) => (item.node === null ? "(unknown)" : `${item.pipeline}:${item.node}`),
  pipeline: (item) => item.pipeline ?? "(unknown)",
  type: (item) => item.type ?? "(damaged)"
}

const sum = (items: ReadonlyArray<{ readonly size: number }>): number => items.reduce((total, item) => total + item.size, 0)

const listed = (folder: string): ReadonlyArray<string> => (existsSync(folder) ? readdirSync(folder) : [])

export const command: Command = {
  name: "du",
  summary:
    "Shows what uses space in the store: results by node, pipeline or type, how much of it is pinned or unreachable, and the other files in its folder.",
  positionals: [],
  flags: {
    by: { value: "node|pipeline|type", help: "how to group the objects (default: node)" },
    json: { help: "print one JSON document with every object" }
  },
  examples: ["caravan du", "caravan du --by type", "caravan du --json"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const { home } = yield* Store
        const by = given.flag("by") ?? "node"
        const grouping = Object.hasOwn(groupings, by) ? groupings[by] : undefined
        if (grouping === undefined)
          return yield* Effect.fail(
            new UsageError(`--by must be node, pipeline or type, got "${by}".${didYouMean(by, Object.keys(groupings))}`)
          )
        const items = yield* storedItems
        const groups = new Map<string, Array<StoredItem>>()
        for (const item of items) groups.set(grouping(item), [...(groups.get(grouping(item)) ?? []), item])
        const sorted = [...groups]
          .map(([name, members]) => ({ name, objects: members.length, size: sum(members) }))
          .sort((a, b) => b.size - a.size || (a.name < b.name ? -1 : 1))
        // Everything besides the objects: journal, logs, quarantine, files being written.
        const sizes = new Map<string, number>()
        for (const name of readdirSync(home)) {
          if (name === "objects") continue
          const what = /^(journal|leases)/.test(name) ? name.replace(/\.db.*/, "") : name
          sizes.set(what, (sizes.get(what) ?? 0) + (yield* Effect.promise(() => sizeOf(join(home, name)))))
        }
        const others = Object.fromEntries(sizes)
        // Unfinished nodes and mapped nodes.
        const holders: Record<string, number> = {
          checkpoints: listed(join(home, "checkpoints")).length,
          shards: listed(join(home, "shards")).filter((name) => name.endsWith(".db")).length
        }
        const total = sum(items) + [...sizes.values()].reduce((a, b) => a + b, 0)
        const part = (which: (item: StoredItem) => boolean) => {
          const members = items.filter(which)
          return { objects: members.length, size: sum(members) }
        }
        const document = {
          home,
          size: total,
          objects: { objects: items.length, size: sum(items) },
          pinned: part((item) => item.pinned),
          inUse: part((item) => item.held !== null),
          unreachable: part((item) => !item.reachable),
          others,
          checkpoints: { nodes: holders.checkpoints, size: sizes.get("checkpoints") ?? 0 },
          shards: { nodes: holders.shards, size: sizes.get("shards") ?? 0 },
          groups: sorted,
          items: items.sort((a, b) => b.size - a.size || (a.digest < b.digest ? -1 : 1))
        }
        const line = (name: string, { objects, size: bytes }: { readonly objects: number; readonly size: number }) => [
          size(bytes),
          name,
          count(objects, "object")
        ]
        print(given.has("json"), document, [
          ...table([
            ...sorted.slice(0, shownGroups).map((group) => line(group.name, group)),
            ...(sorted.length > shownGroups
              ? [
                  line(`... ${sorted.length - shownGroups} more`, {
                    objects: sorted.slice(shownGroups).reduce((n, group) => n + group.objects, 0),
                    size: sum(sorted.slice(shownGroups))
                  })
                ]
              : []),
            ...Object.entries(others)
              .filter(([, bytes]) => bytes > 0)
              .map(([name, bytes]) => [size(bytes), `(${name})`, Object.hasOwn(holders, name) ? count(holders[name]!, "node") : ""])
          ]),
          `${size(total)} in ${home}: ${count(items.length, "object")} of ${size(document.objects.size)}; ${document.pinned.objects} pinned (${size(document.pinned.size)}), ${document.unreachable.objects} unreachable (${size(document.unreachable.size)}), ${document.inUse.objects} in use (${size(document.inUse.size)}).`
        ])
        return exitCodes.ok
      })
    )
}
