/** `caravan bless`: lets a node's result stand for code that changed without changing it. Shows what changed; records it with --yes. */
import * as Effect from "effect/Effect"
import { bless, type Blessed } from "../../runtime/inspect/bless.ts"
import { type Command, exitCodes } from "../command.ts"
import { layer } from "../../caravan.ts"
import { print } from "../open-store.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"
import { slurmOptions } from "../run-flags.ts"
import { short } from "../display/units.ts"

const told = ({ node, stage, pinned, verdict, digest, changes, why, key, from }: Blessed, recorded: boolean): Array<string> => {
  const pin = pinned === null ? "" : ` (pinned ${pinned})`
  switch (verdict) {
    case "settled":
      return [`${node}${pin} is in the store, made with the code as it is: there is nothing to bless.`]
    case "refused":
      return [
        `${node}${pin} can't be blessed: ${why.length === 1 ? why[0]! : `more than its code differs:\n${why.map((line) => `  ${line}`).join("\n")}`}`
      ]
    case "blessed":
      return [
        `${node} (stage ${stage}${pinned === null ? "" : `, pinned ${pinned}`}): its result ${short(digest!)} was made before these changes of its code, and nothing else differs:`,
        ...changes.map((line) => `  ${line}`),
        recorded
          ? `Blessed: it counts for the code as it is${key === from ? "" : `, under the key ${short(key!)} (made under ${short(from!)})`}.`
          : "Nothing is recorded yet. If they leave the result as it is, add --yes: a run then finds it. `caravan verify` makes it again and compares."
      ]
  }
}

export const command: Command = {
  name: "bless",
  summary:
    "Keeps the last result of a node valid for its current code, when only the code changed and you know that the change does not affect the result. Shows which files changed, and records the decision with --yes. lineage still names the code that made the result; why says that it was blessed.",
  positionals: ["<pipeline.ts>", "<node|output>"],
  flags: { ...pipelineFlags, yes: { help: "record the decision" }, json: { help: "print one JSON document" } },
  examples: [
    "caravan bless pipelines/rlhf.ts helpfulness-reward --set preferences=pairs.jsonl.gz",
    "caravan bless pipelines/rlhf.ts helpfulness-reward --set preferences=pairs.jsonl.gz --yes"
  ],
  more: describeParameters,
  run: async (given) => {
    const [file, node] = given.positionals as [string, string]
    const pipeline = await loadPipeline(file)
    const options = pipelineOptions(given)
    const record = given.has("yes")
    const blessed = await Effect.runPromise(
      bless(pipeline, {}, node, { ...options, record }).pipe(Effect.provide(layer({ ...options, ...slurmOptions() })))
    )
    const recorded = record && blessed.verdict === "blessed"
    print(given.has("json"), { ...blessed, recorded }, told(blessed, recorded))
    return blessed.verdict === "refused" ? exitCodes.failed : exitCodes.ok
  }
}
