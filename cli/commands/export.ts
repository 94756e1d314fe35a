/** `caravan export`: writes a result into a folder that other tools can load. */
import { writeFile } from "node:fs/promises"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import { hubNameOf } from "../../runtime/hub/hub.ts"
import { findHome } from "../../runtime/store/home.ts"
import { Store } from "../../runtime/store/store.ts"
import { isHubName, repositoryOf } from "../../schemas/hub-name.ts"
import { artifactPlace } from "../artifact-path.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { size } from "../display/units.ts"
import { cardOf, version } from "../export/card.ts"
import { contentsOf, listing } from "../export/contents.ts"
import { historyOf } from "../export/history.ts"
import { push, type Pushed, pushTo } from "../export/push.ts"
import { targetOf, writeFolder } from "../export/target.ts"
import { print, storeAt } from "../open-store.ts"

/** Writes the folder: to its target, or to a temporary folder of the store that exists while `use` runs. */
const written = async <A>(
  to: string | undefined,
  { force, kept }: { readonly force: boolean; readonly kept: ReadonlyArray<string> },
  fill: (folder: string, title: string) => Promise<void>,
  use: (folder: string) => Promise<A>
): Promise<{ readonly folder: string | null; readonly files: Awaited<ReturnType<typeof listing>>; readonly used: A }> => {
  const filled = async (folder: string, title: string) => {
    await fill(folder, title)
    return listing(folder)
  }
  if (to !== undefined) {
    const target = targetOf(to, { force, kept })
    const files = await writeFolder(target, (folder) => filled(folder, basename(target.path)))
    return { folder: target.path, files, used: await use(target.path) }
  }
  const work = Effect.gen(function* () {
    const store = yield* Store
    const folder = yield* store.temporary
    return yield* Effect.promise(async () => {
      const files = await filled(folder, "")
      return { folder: null, files, used: await use(folder) }
    }).pipe(Effect.ensuring(store.remove(folder)))
  })
  return Effect.runPromise(Effect.provide(work, storeAt(findHome(process.cwd()))))
}

export const command: Command = {
  name: "export",
  summary:
    "Exports a result or a model folder: a checkpoint in the format of transformers, an adapter (<result>/adapter) in PEFT's format or merged, a dataset as Parquet, a report unchanged. README.md is a card that records how it was made. The folder appears only when it is complete. With --push it is uploaded to the Hugging Face Hub as one commit. Exit codes: 0 done, 1 writing or pushing failed (full disk, no network), 2 wrong arguments, 130 interrupted.",
  positionals: ["<artifact>"],
  flags: {
    to: { value: "folder", help: "the folder to write, new or empty; optional with --push" },
    merge: { help: "merge an adapter into its base and write the full model; the base is the result that contains the adapter, or --base" },
    base: {
      value: "name",
      help: "the base model of an adapter, as PEFT looks it up (owner/name or a folder); with --merge a checkpoint or hf:owner/name"
    },
    force: { help: "replace the folder and everything in it" },
    push: {
      value: "hf:owner/name",
      help: "push to this repository (hf:datasets/owner/name for a dataset), which is created if missing; needs a token with write access (HF_TOKEN)"
    },
    public: {
      help: "with --push: make the repository public; without it, a new repository is private and pushing to a public one is refused"
    },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan export sft --to ./my-model",
    "caravan export latest:rlhf-v5/adapter --to ./my-adapter --base meta-llama/Llama-2-7b-hf",
    "caravan export ./my-adapter --merge --base ./llama --to ./merged --json",
    "caravan export helpfulness-pairs --to ./pairs --force",
    "caravan export rlhf:policy --push hf:me/my-chat"
  ],
  run: async (given) => {
    const [text, to, pushed] = [given.positionals[0]!, given.flag("to"), given.flag("push")]
    if (to === undefined && pushed === undefined) throw new UsageError("caravan export needs --to <folder>, or --push hf:owner/name.")
    if (given.has("public") && pushed === undefined)
      throw new UsageError("--public has no effect without --push: add --push, or remove --public.")
    const { origin, path } = await artifactPlace(text)
    const kept = [path, origin?.home ?? findHome(process.cwd())]
    const place = { force: given.has("force"), kept }
    if (to !== undefined) targetOf(to, place)
    const base = baseOf(given.flag("base"), given.has("merge"))
    const contents = await contentsOf(path, { base, merge: given.has("merge") })
    const target = pushed === undefined ? undefined : await pushTo(pushed, contents.kind, given.has("public"))
    const history = origin && (await Effect.runPromise(Effect.provide(historyOf(origin.digest, origin.node), storeAt(origin.home))))
    const fill = async (folder: string, title: string) => {
      await contents.write(folder)
      await writeFile(join(folder, "README.md"), cardOf(contents, history, { base, title: target?.name.name ?? title }))
    }
    const { files, folder, used } = await written(to, place, fill, async (folder) =>
      target === undefined
        ? null
        : push(target, folder, await listing(folder), { title: `${contents.kind} exported by Caravan ${version}`, stays: to !== undefined })
    )
    const { facts, kind, leftOut } = contents
    print(
      given.has("json"),
      { kind, source: { path, digest: origin?.digest ?? null }, folder, files, rows: facts.rows ?? null, leftOut, pushed: used },
      [
        `${kind} ${text} written${folder === null ? "" : ` to ${folder}`}:`,
        ...files.map(({ bytes, name }) => `  ${name}  ${size(bytes)}`),
        ...(leftOut.length === 0 ? [] : [`left out: ${leftOut.join(", ")}`]),
        ...(used === null
          ? ["README.md says how it was made, settings included: read it before publishing."]
          : pushedLines(used, given.has("public")))
      ]
    )
    return exitCodes.ok
  }
}

/** The adapter's base. PEFT finds models on the Hub only by owner/name. */
const baseOf = (text: string | undefined, isMerge: boolean): string | undefined => {
  if (text === undefined || isMerge || !isHubName(text)) return text
  const { kind, path, revision, ...name } = hubNameOf(text)
  if (kind !== "model" || path !== undefined || revision !== "main")
    throw new UsageError(`--base ${text}: PEFT finds a base only by owner/name. Remove the revision and path.`)
  return repositoryOf({ kind, path, revision, ...name })
}

const pushedLines = ({ commit, removed, url }: Pushed, isPublic: boolean): ReadonlyArray<string> => [
  ...(removed.length === 0 ? [] : [`deleted in the repository: ${removed.join(", ")}`]),
  `Pushed to ${url} (${isPublic ? "public" : "private"}), commit ${commit}.`,
  ...(isPublic ? [] : ["README.md says how it was made, settings included: read it before making the repository public."])
]
