/** Two parallel walks, and a stage that joins them. */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { meet, walk } from "./stages.ts"

const Params = Schema.Struct({
  file: hyper("words.txt", "where the walks begin"),
  steps: hyperInt(10, "of each walk"),
  pause: hyperInt(20, "ms of each step", { min: 0 }),
  diary: hyper("", "a file that each step is written down in")
})

export default Pipeline.make("cluster", { params: Params }, ({ diary, file, pause, steps }) => {
  const walks = [1, 2].map((stride) => walk({ file: fileAt(file) }, { diary, pause, steps, stride }).named(`walk-${stride}`))
  return { place: meet({ places: walks }) }
})
