/** `caravan freeze`: writes down everything that determines a pipeline's results, for `run --locked` to check. */
import { relative, resolve } from "node:path"
import * as Effect from "effect/Effect"
import { freeze } from "../../runtime/inspect/freeze.ts"
import { lockFolder, lockPath, writeLock } from "../../runtime/run/lock-file.ts"
import { plan } from "../../runtime/run/plan.ts"
import { type Command, exitCodes } from "../command.ts"
import { layer } from "../../caravan.ts"
import { print } from "../open-store.ts"
import { drifting } from "./plan.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"
import { slurmOptions } from "../run-flags.ts"
import { showInputs } from "../display/reading.ts"
import { count } from "../display/units.ts"

export const command: Command = {
  name: "freeze",
  summary:
    "Writes a lock file next to the pipeline: the content of its inputs, its nodes and settings, the code of its stages, their packages, the machine's numerics, and the results in the store. `caravan run --locked` refuses to run if any of that has changed.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    lock: { value: "file.json", help: "where to write it (default: <pipeline>.lock.json next to the pipeline)" },
    json: { help: "print the lock file; write it only if --lock is given too" }
  },
  examples: [
    "caravan freeze pipelines/rlhf.ts --set preferences=pairs.jsonl.gz",
    "caravan run pipelines/rlhf.ts --locked",
    "caravan freeze pipelines/demo.ts --lock release.json"
  ],
  more: describeParameters,
  run: async (given) => {
    const [file] = given.positionals as [string]
    const pipeline = await loadPipeline(file)
    const options = pipelineOptions(given)
    const path = resolve(given.flag("lock") ?? lockPath(file))
    const reading = showInputs()
    const made = await Effect.runPromise(
      plan(pipeline, {}, { ...options, onEvent: reading.onEvent }).pipe(Effect.provide(layer({ ...options, ...slurmOptions() })))
    ).finally(reading.close)
    const lock = freeze(made, options, lockFolder(path))
    const written = !given.has("json") || given.flag("lock") !== undefined
    if (written) await Effect.runPromise(writeLock(path, lock))
    const nodes = Object.values(lock.nodes)
    const unknown = nodes.filter(({ result }) => result === null).length
    print(given.has("json"), lock, [
      `Wrote ${relative(process.cwd(), path)}: ${count(nodes.length, "node")}, ${count(Object.keys(lock.inputs).length, "input")}, ${count(Object.keys(lock.packages).length, "package")}${lock.numerics === null ? "" : `, the numerics of ${lock.device}`}.`,
      ...(unknown > 0
        ? [
            `${count(unknown, "node")} of them have no result in the store, so the lock file does not pin theirs. Run the pipeline, then freeze again.`
          ]
        : []),
      ...drifting(made.nodes.values()),
      `To run with it: caravan run ${file} --locked${given.flag("lock") === undefined ? "" : ` --lock ${given.flag("lock")}`}`
    ])
    return exitCodes.ok
  }
}
