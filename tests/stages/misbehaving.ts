/** A stage with several ranks, one of which misbehaves. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { rank, sumOver } from "../../engine/ranks.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", { message: Schema.String }) {}

export const misbehaving = Stage.make("misbehaving", {
  config: Schema.Struct({
    how: hyper("behaves", "what the rank does after the first sum", ["behaves", "fails", "dies", "leaves", "hangs", "stops"]),
    which: hyperInt(1, "the rank that does it")
  }),
  inputs: {},
  output: Texts,
  resources: { tensors: true, ranks: true },
  run: Effect.fn("misbehaving")(function* ({ config, output }) {
    const [first] = sumOver([rank() + 1], "the first sum")
    console.log(`this is rank ${rank()}`)
    if (rank() === config.which) {
      if (config.how === "fails") return yield* new Refused({ message: "not with me" })
      if (config.how === "dies") process.kill(process.pid, "SIGKILL")
      if (config.how === "leaves") process.exit(3)
      // In one turn of the event loop: only the process's threads still run.
      if (config.how === "hangs") for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000)
      if (config.how === "stops") process.kill(process.pid, "SIGSTOP")
    }
    const [second] = sumOver([10], "the second sum")
    return yield* writeDataset(output, [{ text: `${first} ${second}` }])
  })
})
