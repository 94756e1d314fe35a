/**
 * For out-of-core.test.ts, in a process whose heap is smaller than the rows: imports pairs from a file, cleans, mixes and splits them, and prints the number of rows after each step.
 *
 *     node --max-old-space-size=64 --max-semi-space-size=16 tests/stages/data/out-of-core.ts <folder>
 */
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { noCheckpoints } from "../../../runtime/define/resume-points.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { cleanPreferences } from "../../../stages/data/clean.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { mixPreferences } from "../../../stages/data/mix.ts"
import { splitPreferences } from "../../../stages/data/split.ts"

const folder = process.argv[2]!
const at = (name: string) => ({ path: join(folder, name), type: "", digest: "", contentDigest: "" })
const run = async ({ stage }: AnyStage, name: string, inputs: object, config: object): Promise<number> => {
  mkdirSync(join(folder, name))
  const program = Effect.gen(function* () {
    const { metrics } = yield* stage.run({
      ...{
        config: yield* decodeConfig(stage.config, config, stage.name),
        inputs,
        output: { path: join(folder, name), type: stage.output }
      },
      ...{ seed: 1, device: "cpu" as const, threads: 1, progress: () => Effect.void, checkpoints: noCheckpoints },
      skipped: { add: () => undefined, check: () => Effect.void }
    } as never)
    return metrics["rows"]!
  })
  return Effect.runPromise(program)
}

const counts = [
  await run(importPreferences, "imported", { file: at("pairs.jsonl") }, {}),
  await run(cleanPreferences, "clean", { rows: at("imported"), others: [], evaluation: [] }, {}),
  await run(mixPreferences, "mixed", { datasets: [at("clean")] }, { weights: [2] }),
  await run(splitPreferences, "train", { rows: at("mixed") }, { part: "train" })
]
console.log(JSON.stringify(counts))
