/** A mapped stage whose shards are distributed to workers. */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { lines, shoutRows } from "./stages.ts"

const Params = Schema.Struct({
  file: hyper("words.txt", "lines of text"),
  workers: hyperInt(3, "jobs that shards are dealt out to", { min: 1 }),
  diary: hyper("", "a file that each shard is written down in")
})

export default Pipeline.make("rows", { params: Params }, ({ diary, file, workers }) => ({
  loud: shoutRows({ texts: lines({ file: fileAt(file) }).on({ executor: "local" }) }, { diary })
    .on({ workers })
    .named("loud")
}))
