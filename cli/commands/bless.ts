/** `caravan bless`: keeps a node's result valid after a code change that does not affect it. Shows the changes; records the decision with --yes. */
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
      return [`${node}${pin} is already in the store under the current code: nothing to bless.`]
    case "refused":
      return [
        `${node}${pin} can't be blessed: ${why.length === 1 ? why[0]! : `more than the code differs:\n${why.map((line) => `  ${line}`).join("\n")}`}`
      ]
    case "blessed":
      return [
        `${node} (stage ${stage}${pinned === null ? "" : `, pinned ${pinned}`}): its result ${short(digest!)} was made before these code changes; nothing else differs:`,
        ...changes.map((line) => `  ${line}`),
        recorded
          ? `Blessed: the result is now valid for the current code${key === from ? "" : `, under the key ${short(key!)} (made under ${short(from!)})`}.`
          : "Nothing is recorded yet. If these changes do not affect the result, add --yes: runs then reuse it. To check, `caravan verify` recomputes the result and compares."
      ]
  }
}

export const command: Command = {
  name: "bless",
  summary:
    "Keeps a node's last result valid after a code change, when only the code changed and you assert that the change does not affect the result. Shows which files changed; records the decision with --yes. `lineage` still names the code that made the result, and `why` shows that it was blessed.",
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
