/** The whole recipe on the small world (world/recipe.ts), at a size that suits two cores: `npm run demo`. */
import * as Schema from "effect/Schema"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { worldParams } from "./world/params.ts"
import { worldRecipe } from "./world/recipe.ts"

export default Pipeline.make(
  "demo",
  { description: "the whole recipe on a generated small world; takes minutes on two cores", params: Schema.Struct(worldParams) },
  worldRecipe
)
