/** `caravan export`: a result as a folder that others load. */
import { writeFile } from "node:fs/promises"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import { findHome } from "../../runtime/store/home.ts"
import { artifactPlace } from "../artifact-path.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { size } from "../display/units.ts"
import { cardOf } from "../export/card.ts"
import { contentsOf, listing } from "../export/contents.ts"
import { historyOf } from "../export/history.ts"
import { targetOf, writeFolder } from "../export/target.ts"
import { print, storeAt } from "../open-store.ts"

export const command: Command = {
  name: "export",
  summary:
    "Writes a result, or a model's folder, into a folder for others: a checkpoint as transformers loads it, an adapter (<result>/adapter) as PEFT loads it or merged, a dataset as Parquet, a report as it is; with a card, README.md, that says how it was made. The folder appears whole or not at all. Exit codes: 0 done, 1 it could not be written (a full disk), 2 a mistake in the call, 130 interrupted.",
  positionals: ["<artifact>"],
  flags: {
    to: { value: "folder", help: "the folder to write; a new or an empty one" },
    merge: { help: "write an adapter as a whole model: merged into the result that it is in, or into --base" },
    base: { value: "name", help: "the base of an adapter, as PEFT is to look for it (owner/name or a folder); with --merge a checkpoint" },
    force: { help: "replace the folder, with all that is in it" },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan export sft --to ./my-model",
    "caravan export latest:rlhf-v5/adapter --to ./my-adapter --base meta-llama/Llama-2-7b-hf",
    "caravan export ./my-adapter --merge --base ./llama --to ./merged --json",
    "caravan export helpfulness-pairs --to ./pairs --force"
  ],
  run: async (given) => {
    const [text, to] = [given.positionals[0]!, given.flag("to")]
    if (to === undefined) throw new UsageError("caravan export needs --to <folder>.")
    const { origin, path } = await artifactPlace(text)
    const target = targetOf(to, { force: given.has("force"), kept: [path, origin?.home ?? findHome(process.cwd())] })
    const base = given.flag("base")
    const contents = await contentsOf(path, { base, merge: given.has("merge") })
    const history = origin && (await Effect.runPromise(Effect.provide(historyOf(origin.digest, origin.node), storeAt(origin.home))))
    const card = cardOf(contents, history, { base, title: basename(target.path) })
    const files = await writeFolder(target, async (folder) => {
      await contents.write(folder)
      await writeFile(join(folder, "README.md"), card)
      return listing(folder)
    })
    const { facts, kind, leftOut } = contents
    print(
      given.has("json"),
      { kind, source: { path, digest: origin?.digest ?? null }, folder: target.path, files, rows: facts.rows ?? null, leftOut },
      [
        `${kind} ${text} written to ${target.path}:`,
        ...files.map(({ bytes, name }) => `  ${name}  ${size(bytes)}`),
        ...(leftOut.length === 0 ? [] : [`left out: ${leftOut.join(", ")}`]),
        "README.md says how it was made, settings included: read it before you publish it."
      ]
    )
    return exitCodes.ok
  }
}
