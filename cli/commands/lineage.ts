/** `caravan lineage`: which run, code and data made an artifact, and what was made from it. */
import * as Effect from "effect/Effect"
import { describeDamage, findDamage } from "../../runtime/inspect/damage.ts"
import { ancestry, descent, type LineageEntry, type Making, makings, resolveArtifact } from "../../runtime/inspect/lineage.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes, UsageError, wholeNumber } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { duration } from "../display/progress.ts"
import { count, moment, short, shortRun, shown } from "../display/units.ts"

/** Maximum number of config fields and files listed. */
const shownParts = 12

const some = (list: ReadonlyArray<string>): string =>
  list.length <= shownParts ? list.join(", ") : `${list.slice(0, shownParts).join(", ")} and ${list.length - shownParts} more`

const makingLines = (made: Making): Array<string> => {
  const names = Object.keys(made.files)
  const packages = names.filter((name) => name.includes("node_modules/") && !/\.[a-z]+$/.test(name))
  const files = names.filter((name) => !packages.includes(name))
  const config = Object.entries(made.config).map(([name, value]) => `${name} ${shown(value)}`)
  return [
    `made by run ${shortRun(made.run)} of ${made.pipeline}, node ${made.node} (stage ${made.stage}), ${moment(made.at)}, in ${duration(made.milliseconds)}`,
    ...(config.length > 0 ? [`  config    ${some(config)}`] : []),
    ...(made.seed === null ? [] : [`  seed      ${made.seed}`]),
    `  code      ${short(made.code)}: ${some(files)}; ${count(packages.length, "package")}`,
    ...(made.numerics === null
      ? []
      : [
          `  numerics  ${some(Object.entries(made.numerics).map(([name, value]) => `${name} ${value.length === 64 ? short(value) : value}`))}`
        ])
  ]
}

const nameOf = (entry: { readonly name: string; readonly type: string; readonly digest: string | null; readonly contentDigest: string }) =>
  `${entry.name}  ${entry.type}  ${short(entry.digest ?? entry.contentDigest)}`

const tree = (entries: ReadonlyArray<LineageEntry>, indent = "  "): Array<string> =>
  entries.flatMap((entry) => [
    `${indent}${entry.port} = ${nameOf(entry)}${entry.next === undefined ? " (see above)" : ""}`,
    ...tree(entry.next ?? [], `${indent}  `)
  ])
const users = (entries: ReadonlyArray<LineageEntry>, indent = "  "): Array<string> =>
  entries.flatMap((entry) => [
    `${indent}${nameOf(entry)}, as ${entry.port}${entry.next === undefined ? " (see above)" : ""}`,
    ...users(entry.next ?? [], `${indent}  `)
  ])

export const command: Command = {
  name: "lineage",
  summary:
    "Shows which run, code and data made an artifact, back to the input files, and what was made from it. Name a result by its node or output (also pipeline:name, or run:name for an earlier run), by a prefix of its digest, or by its path. Name an input file by its path.",
  positionals: ["<artifact>"],
  flags: {
    up: { help: "show only what it was made from" },
    down: { help: "show only what was made from it" },
    depth: { value: "n", help: "follow at most n steps" },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan lineage rlhf-v5",
    "caravan lineage latest~1:rlhf-v5 --up",
    "caravan lineage 3f2a91c04d7e --up --json",
    "caravan lineage pairs.jsonl.gz --down --depth 1"
  ],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const store = yield* Store
        if (given.has("up") && given.has("down"))
          return yield* Effect.fail(new UsageError("Use either --up or --down; without them both directions are shown."))
        const named = yield* resolveArtifact(given.positionals[0]!)
        const depth = wholeNumber(given, "depth", 1) ?? Infinity
        const made = named.digest === null ? [] : yield* makings(named.digest)
        const from = given.has("down") ? undefined : yield* ancestry(named, depth)
        const into = given.has("up") ? undefined : yield* descent(named, depth)
        const isModified = named.digest !== null && (yield* store.presence(named.digest)) === "modified"
        const damage = isModified ? yield* findDamage(named.digest) : undefined
        const object = named.digest === null ? undefined : (yield* store.present(named.digest)) ? store.path(named.digest) : null
        const where =
          object === undefined
            ? []
            : damage !== undefined
              ? [describeDamage("it", damage)]
              : [object === null ? "no longer in the store; a run that needs it recomputes it" : `in the store: ${object}`]
        const unknown = made.length === 0 && named.digest !== null ? ["the journal does not record what made it"] : []
        print(given.has("json"), { artifact: { ...named, path: object ?? null }, made, ...(from && { from }), ...(into && { into }) }, [
          nameOf(named),
          ...where,
          ...unknown,
          ...made.slice(0, 1).flatMap(makingLines),
          ...(made.length > 1
            ? [
                `recomputed with the same result ${count(made.length - 1, "time")}: ${some(made.slice(1).map(({ run, node }) => `${node} in run ${shortRun(run)}`))}`
              ]
            : []),
          ...(from !== undefined && from.length > 0 ? ["made from", ...tree(from)] : []),
          ...(into === undefined ? [] : into.length === 0 ? ["nothing was made from it"] : ["used to make", ...users(into)])
        ])
        return exitCodes.ok
      })
    )
}
